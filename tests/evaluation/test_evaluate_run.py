"""A real (random) adapter evaluated by the real decoder; reuse, refusals, baselines."""

from __future__ import annotations

import json
import shutil

import pytest
from evaluation_helpers import SCHEMA, make_rows, write_data, write_run

from triagekit.errors import TriageError
from triagekit.evaluation.baselines import evaluate_baselines
from triagekit.evaluation.evaluate import evaluate_run, read_metrics
from triagekit.evaluation.table import PredictionTable


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("evaluation") / "data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data, tiny_model_folder):
    run = write_run(tmp_path_factory.mktemp("runs") / "lora-seed0", data, tiny_model_folder)
    return run, evaluate_run(run, limit=12, free_sample=3)


def test_what_is_written(finished, data):
    run, metrics = finished
    on_disk = json.loads((run / "eval" / "test" / "metrics.json").read_text())
    assert on_disk == _without_told(metrics)
    assert metrics["written"]
    assert not metrics["reused"]
    assert metrics["rows"] == 12
    assert metrics["rows_in_split"] == 40
    assert metrics["valid"]["value"] == 1.0  # by construction, even from random weights
    assert metrics["valid_before_constraint"]["value"] == 0.0  # and random weights write no JSON by themselves
    assert metrics["valid_before_constraint"]["rows"] == 3
    table, key = PredictionTable.read(run / "eval" / "test" / "predictions.parquet")
    rows = make_rows(40, seed=3)[:12]
    assert table.ids == [row.id for row in rows]
    assert table.texts == [row.text for row in rows]
    assert [table.gold["tags"][index] for index in range(12)] == [row.record["tags"] for row in rows]
    assert table.slices["language"] == [row.slices["language"] for row in rows]
    assert all(0 < value <= 1 for value in table.confidence["category"])
    assert key["adapter"] == metrics["adapter_fingerprint"]


def test_predictions_are_those_of_the_predictor(finished):
    from triagekit.scoring.predictor import Predictor

    run, _ = finished
    table, _ = PredictionTable.read(run / "eval" / "test" / "predictions.parquet")
    predictions = Predictor.from_run(run).predict(table.texts[:3])
    assert [prediction.record for prediction in predictions] == [
        {name: table.predicted[name][index] for name in SCHEMA.field_names} for index in range(3)
    ]


def test_reuse_and_when_not(finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished[0], tmp_path / "lora-seed0")

    def refuse(*_, **__):
        raise AssertionError("decoded again")

    monkeypatch.setattr("triagekit.evaluation.evaluate._predictor", refuse)
    again = evaluate_run(run, limit=12, free_sample=3)
    assert again["reused"]
    assert _without_told(again) == _without_told(finished[1])
    for options in ({"limit": 13}, {"limit": 11, "free_sample": 3}, {"limit": 12, "free_sample": 2}, {"fresh": True}):
        with pytest.raises(AssertionError, match="decoded again"):
            evaluate_run(run, **{"limit": 12, "free_sample": 0, **options})


def test_a_look_at_a_few_leaves_the_measurement_of_more(finished, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "lora-seed0")
    files = [run / "eval" / "test" / name for name in ("predictions.parquet", "metrics.json")]
    before = [path.read_bytes() for path in files]
    alone = shutil.copytree(finished[0], tmp_path / "alone")
    shutil.rmtree(alone / "eval")
    expected = evaluate_run(alone, limit=5, free_sample=2)
    few = evaluate_run(run, limit=5, free_sample=2)
    assert few["reused"]
    assert not few["written"]
    # Of five tickets in all, the free sample too, as if no more had been measured.
    beside = {"run", "decoding", "predictions_fingerprint"}
    assert {key: few[key] for key in _without_told(few) if key not in beside} == {
        key: expected[key] for key in _without_told(expected) if key not in beside
    }
    assert [path.read_bytes() for path in files] == before
    mode = evaluate_run(run, limit=5, free_sample=0, fields=["labels"])
    assert mode["written"]
    assert list(mode["beside_usual"]["fields"]) == [field.name for field in SCHEMA.label_fields]


def _without_told(metrics):
    """What stands in the file: all but what only the caller is told."""
    return {key: value for key, value in metrics.items() if key not in ("reused", "written")}


def test_a_kill_between_the_two_files_is_seen(finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished[0], tmp_path / "run")
    folder = run / "eval" / "test"
    table, key = PredictionTable.read(folder / "predictions.parquet")
    table.take(range(5)).write(folder / "predictions.parquet", key | {"rows": 5})
    with pytest.raises(TriageError, match="was not made from"):
        read_metrics(folder)
    assert evaluate_run(run, limit=5, free_sample=0)["rows"] == 5
    assert read_metrics(folder)["valid_before_constraint"] is None


def test_refusals(finished, data, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    with pytest.raises(TriageError, match=r"No split 'tset'.*test"):
        evaluate_run(run, split="tset")
    other = write_data(tmp_path / "other", test=30)
    with pytest.raises(TriageError, match="is not the data that run was trained on"):
        evaluate_run(run, data=other)
    shutil.rmtree(run / "adapter")
    with pytest.raises(TriageError, match="has no adapter yet"):
        evaluate_run(run)
    with pytest.raises(TriageError, match="No run at"):
        evaluate_run(tmp_path / "nothing")


def test_baselines(data):
    results = evaluate_baselines(data)
    majority, linear = results["majority"], results["tfidf_linear"]
    assert linear["fields"]["category"]["accuracy"]["value"] > 0.95  # the words give it away
    assert linear["fields"]["tags"]["accuracy"]["value"] > 0.9
    assert majority["fields"]["category"]["accuracy"]["value"] < 0.8
    assert linear["fields"]["summary"]["similarity"]["value"] == 1.0  # the summary is the first line here
    gold = make_rows(40, seed=3)
    trained = [row.record["category"] for row in make_rows(120, seed=1)]
    common = max(sorted(set(trained)), key=trained.count)
    expected = sum(row.record["category"] == common for row in gold) / 40
    assert majority["fields"]["category"]["accuracy"]["value"] == pytest.approx(expected)
    assert read_metrics(data / "baselines" / "tfidf_linear")["baseline"] == "tfidf_linear"
    assert linear["train_rows"] == 120


def test_baseline_confidence_is_worth_something(data):
    linear = evaluate_baselines(data, limit=40)["tfidf_linear"]
    assert linear["calibration"]["category"]["ece"] < 0.3
    assert linear["abstention"][-1]["accuracy"] >= linear["abstention"][0]["accuracy"]


def test_baselines_of_another_split_and_fewer_rows(data, tmp_path):
    results = evaluate_baselines(data, split="val", out=tmp_path, max_train_rows=30)
    assert results["majority"]["train_rows"] == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["majority-val", "tfidf_linear-val"]


def test_one_label_and_no_validation_split(tmp_path):
    folder = write_data(tmp_path / "small", train=1, val=0, test=3)
    results = evaluate_baselines(folder)
    assert results["tfidf_linear"]["rows"] == 3
