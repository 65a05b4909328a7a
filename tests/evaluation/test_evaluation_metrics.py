"""Metrics against scikit-learn, against hand counts, and the corners where they used to be wrong elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
from evaluation_helpers import SCHEMA, make_rows
from sklearn.metrics import f1_score, precision_recall_fscore_support

from triagekit.data.rows import Row
from triagekit.evaluation.calibration import abstention_at_coverages, abstention_at_thresholds, calibration
from triagekit.evaluation.classification import (
    confusion,
    label_order,
    level_distances,
    macro_f1_interval,
    per_class,
)
from triagekit.evaluation.intervals import mean_intervals, resample_weights, wilson
from triagekit.evaluation.metrics import evaluate_predictions
from triagekit.evaluation.text_similarity import longest_common_subsequence, rouge_l, word_jaccard


def predicted(rows, change=lambda number, record: record, confidence=0.9):
    return [
        {
            "record": change(number, dict(row.record)),
            "confidence": dict.fromkeys(SCHEMA.field_names, confidence),
            "verdict": "auto",
            "text": "{}",
        }
        for number, row in enumerate(rows)
    ]


def test_everything_right():
    rows = make_rows(50)
    metrics = evaluate_predictions(SCHEMA, rows, predicted(rows))
    assert metrics["exact_match"]["value"] == 1.0
    assert 0.9 < metrics["exact_match"]["low"] < 1.0  # fifty tickets are no certainty
    assert all(values["accuracy"]["value"] == 1.0 for values in metrics["fields"].values())
    assert metrics["fields"]["summary"]["similarity"]["value"] == 1.0
    assert metrics["fields"]["priority"]["mean_distance"]["value"] == 0.0
    json.dumps(metrics, allow_nan=False)


def test_exact_match_is_over_label_fields_and_not_over_text():
    rows = make_rows(10)
    metrics = evaluate_predictions(SCHEMA, rows, predicted(rows, lambda _, record: record | {"summary": "else"}))
    assert metrics["exact_match"]["value"] == 1.0
    assert metrics["fields"]["summary"]["accuracy"]["value"] == 0.0


def test_known_share_of_mistakes():
    rows = make_rows(40)

    def change(number, record):
        if number < 10:
            record["category"] = "Hardware" if record["category"] != "Hardware" else "Network"
        if number < 4:
            record["team"] = "Field"
        return record

    metrics = evaluate_predictions(SCHEMA, rows, predicted(rows, change))
    assert metrics["fields"]["category"]["accuracy"]["value"] == 0.75
    assert metrics["fields"]["team"]["accuracy"]["value"] == 0.9
    assert metrics["exact_match"]["value"] == 0.75
    low, high = (metrics["fields"]["category"]["accuracy"][key] for key in ("low", "high"))
    assert 0.55 < low < 0.7 < 0.8 < high < 0.95


def test_a_missing_record_is_wrong_everywhere_even_where_null_is_right():
    rows = make_rows(20)
    guesses = predicted(rows)
    broken = next(number for number, row in enumerate(rows) if row.record["team"] is None)
    guesses[broken] = {"record": None, "confidence": {}, "verdict": "error", "text": "sorry"}
    metrics = evaluate_predictions(SCHEMA, rows, guesses)
    assert metrics["fields"]["team"]["accuracy"]["value"] == pytest.approx(0.95)
    assert metrics["fields"]["tags"]["set_f1"]["value"] == pytest.approx(0.95)
    assert metrics["valid"]["value"] == pytest.approx(0.95)
    assert "(no record)" in metrics["fields"]["team"]["confusion"]["labels"]
    assert "(null)" in metrics["fields"]["team"]["confusion"]["labels"]


def test_per_class_figures_are_by_name_whatever_is_present():
    gold = ["b", "b", "c", "d", "d", "d"]
    guess = ["b", "c", "c", "d", "a", "d"]
    labels = label_order(["d", "c", "b", "a", "never"], gold, guess)
    assert labels == ["d", "c", "b", "a"]
    classes = per_class(labels, confusion(labels, gold, guess))
    precision, recall, f1, support = precision_recall_fscore_support(gold, guess, labels=labels, zero_division=0)
    for index, name in enumerate(labels):
        assert classes[name]["precision"] == pytest.approx(precision[index])
        assert classes[name]["gold"] == support[index]
        if support[index]:
            assert classes[name]["recall"] == pytest.approx(recall[index])
            assert classes[name]["f1"] == pytest.approx(f1[index])
    assert classes["a"]["recall"] is None  # never gold: no recall, rather than a zero


def test_macro_f1_is_scikit_learns_over_gold_labels():
    generator = np.random.default_rng(0)
    gold = generator.choice(list("abcde"), 300, p=[0.5, 0.3, 0.1, 0.06, 0.04])
    guess = np.where(generator.random(300) < 0.7, gold, generator.choice(list("abcdeX"), 300))
    labels = label_order([], gold, guess)
    result = macro_f1_interval(labels, gold, guess)
    assert result["value"] == pytest.approx(f1_score(gold, guess, labels=list("abcde"), average="macro"))
    assert result["low"] < result["value"] < result["high"]


def test_bootstrap_of_macro_f1_equals_a_plain_loop():
    generator = np.random.default_rng(1)
    gold = generator.choice(list("abc"), 60)
    guess = np.where(generator.random(60) < 0.6, gold, "a")
    result = macro_f1_interval(["a", "b", "c"], gold, guess, resamples=200, seed=4)
    values = []
    for weights in np.vstack(list(resample_weights(60, 200, 4))):
        drawn = np.repeat(np.arange(60), weights.astype(int))
        values.append(f1_score(gold[drawn], guess[drawn], labels=sorted(set(gold[drawn])), average="macro"))
    assert [result["low"], result["high"]] == pytest.approx(list(np.quantile(values, [0.025, 0.975])))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(5)
    covered = 0
    for number in range(200):
        figure = mean_intervals({"x": generator.random(200) < 0.8}, resamples=200, seed=number)["x"]
        covered += figure["low"] <= 0.8 <= figure["high"]
    assert 180 <= covered <= 199


def test_wilson_has_its_published_values():
    # 0 of 10 and 129 of 258, as in R's binom.wilson.
    assert wilson(0, 10)["high"] == pytest.approx(0.27753, abs=1e-4)
    assert wilson(129, 258)["low"] == pytest.approx(0.43944, abs=1e-4)
    assert wilson(10, 10)["low"] == pytest.approx(0.72247, abs=1e-4)


def test_chunks_do_not_change_the_draws(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = mean_intervals({"x": values}, resamples=100, seed=3)
    monkeypatch.setattr("triagekit.evaluation.intervals._CHUNK_CELLS", 50 * 7)
    assert mean_intervals({"x": values}, resamples=100, seed=3) == whole


def test_level_distances():
    levels = ("Low", "Medium", "High", "Critical")
    distances = level_distances(levels, ["Low", "High", "Critical", None], ["Medium", None, "Low", "Low"])
    assert distances[:3].tolist() == [1.0, 2.0, 3.0]  # no level predicted: as far off as can be
    assert np.isnan(distances[3])


def test_ordered_field_by_distance():
    rows = make_rows(30)
    shift = {"Low": "Medium", "Medium": "High", "High": "Critical", "Critical": "Medium"}
    guesses = predicted(rows, lambda _, record: record | {"priority": shift[record["priority"]]})
    values = evaluate_predictions(SCHEMA, rows, guesses)["fields"]["priority"]
    far = sum(row.record["priority"] == "Critical" for row in rows)
    assert values["accuracy"]["value"] == 0.0
    assert values["mean_distance"]["value"] == pytest.approx((30 + far) / 30)
    assert values["within_one"]["value"] == pytest.approx(1 - far / 30)


def test_tags_by_set():
    rows = [Row("1", "x", make_rows(1)[0].record | {"tags": ["vip", "outage"]}) for _ in range(40)]
    values = evaluate_predictions(SCHEMA, rows, predicted(rows, lambda _, record: record | {"tags": ["vip"]}))[
        "fields"
    ]["tags"]
    assert values["accuracy"]["value"] == 0.0
    assert values["set_f1"]["value"] == pytest.approx(2 / 3)
    assert values["classes"]["outage"]["recall"] == 0.0
    assert values["macro_f1"]["value"] == pytest.approx(0.5)


def test_text_similarity():
    assert rouge_l("the cat sat on the mat", "the cat on mat today") == pytest.approx(2 * 4 / 11)
    assert rouge_l("Printer IS dead!", "printer is dead") == 1.0
    assert rouge_l("日本 語", "日本") == pytest.approx(2 / 3)
    assert rouge_l("a b", "") == 0.0
    assert word_jaccard("a b b c", "c b d") == pytest.approx(2 / 4)


def test_longest_common_subsequence_equals_the_table():
    generator = np.random.default_rng(2)
    for _ in range(50):
        first, second = (list(generator.choice(list("abcd"), generator.integers(0, 30))) for _ in range(2))
        table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
        for i, one in enumerate(first):
            for j, other in enumerate(second):
                table[i + 1, j + 1] = table[i, j] + 1 if one == other else max(table[i, j + 1], table[i + 1, j])
        assert longest_common_subsequence(first, second) == table[-1, -1]


def test_calibration_of_a_true_and_of_a_boasting_confidence():
    generator = np.random.default_rng(3)
    confidence = generator.random(20_000)
    right = generator.random(20_000) < confidence
    assert calibration(confidence, right)["ece"] < 0.02
    assert calibration(np.full(1000, 0.95), np.arange(1000) < 600)["ece"] == pytest.approx(0.35)
    edges = calibration(np.array([0.0, 1.0, np.nan]), np.array([False, True, True]))
    assert edges["count"] == 2
    assert (edges["bins"][0]["count"], edges["bins"][-1]["count"]) == (1, 1)


def test_abstention():
    confidence = np.array([0.9, 0.8, 0.8, 0.3, np.nan])
    right = np.array([True, True, False, False, True])
    listed = abstention_at_coverages(confidence, right, (0.2, 0.4, 1.0))
    assert [item["coverage"] for item in listed] == pytest.approx([0.2, 0.6, 0.8])  # ties go together; NaN never goes
    assert [item["accuracy"] for item in listed] == pytest.approx([1.0, 2 / 3, 0.5])
    strict = abstention_at_thresholds(confidence, right, (0.0, 0.95))
    assert strict[0]["coverage"] == 0.8
    assert strict[1]["accuracy"] is None


def test_slices_add_up():
    rows = make_rows(40)
    spanish = [row.slices["language"] == "es" for row in rows]
    wrong = {"Low": "High", "Medium": "Low", "High": "Low", "Critical": "Low"}

    def change(number, record):
        return record | {"priority": wrong[record["priority"]]} if spanish[number] else record

    slices = evaluate_predictions(SCHEMA, rows, predicted(rows, change))["slices"]["language"]
    assert (slices["en"]["rows"], slices["es"]["rows"]) == (30, 10)
    assert slices["en"]["exact_match"]["value"] == 1.0
    assert slices["es"]["fields"]["priority"]["value"] == 0.0
    assert slices["es"]["fields"]["category"]["value"] == 1.0


def test_the_same_seed_gives_the_same_figures():
    rows = make_rows(30)
    guesses = predicted(rows, lambda number, record: record | {"kind": "VPN"})
    assert evaluate_predictions(SCHEMA, rows, guesses, seed=5) == evaluate_predictions(SCHEMA, rows, guesses, seed=5)
    other = evaluate_predictions(SCHEMA, rows, guesses, seed=6)
    assert other["fields"]["kind"] != evaluate_predictions(SCHEMA, rows, guesses, seed=5)["fields"]["kind"]
