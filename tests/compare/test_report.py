"""The comparison as a whole: planted differences found, null ones not, and the page safe to open."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_runs import gold_rows, make_baselines, make_run

from triagekit.compare.report import compare_runs, load_comparison
from triagekit.errors import TriageError
from triagekit.schema import load_schema

SCHEMA = load_schema("it_tickets")
ROWS = gold_rows(SCHEMA, 300)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    runs = [
        make_run(root / "runs" / f"{method}-seed{seed}", method, seed, share, ROWS)
        for method, share in (("lora", 0.72), ("hybrid", 0.93))
        for seed in (1, 2)
    ]
    make_baselines(root / "data", ROWS, 0.6)
    return runs


@pytest.fixture(scope="module")
def report(folders):
    out = folders[0].parent.parent / "report.html"
    return compare_runs(folders, out, resamples=200), out.read_text()


def test_a_planted_difference_is_found(report):
    result, _ = report
    main = result["tests"][0]
    assert (main["first"], main["second"], main["score"]) == ("hybrid", "lora", "all label fields")
    assert main["outcome"] == "first"
    assert main["low"] > 0
    assert main["covers"] == "tickets and seeds"
    assert [item["seed"] for item in main["per_seed"]] == ["1", "2"]
    assert "hybrid is better than lora by" in result["statements"][0]
    assert result["conditions"]["verdict"] == "comparable"


def test_what_comes_back_is_json_and_complete(report, folders):
    result, _ = report
    json.dumps(result, allow_nan=False)
    lora, hybrid = result["methods"]
    assert lora["seeds"] == [1, 2]
    assert lora["trainable"] == 155_648
    assert lora["peak_memory_bytes"] == 700_000_000
    assert set(lora["scores"]) == {"all label fields", *SCHEMA.field_names}
    metrics = [json.loads((folder / "eval/test/metrics.json").read_text()) for folder in folders[2:]]
    mean = sum(own["exact_match"]["value"] for own in metrics) / 2
    assert hybrid["scores"]["all label fields"]["value"] == pytest.approx(mean)
    assert [own["name"] for own in result["baselines"]] == ["majority", "tfidf_linear"]
    assert {test["second"] for test in result["tests_against_baseline"]} == {"tfidf_linear"}


def test_two_equal_methods_differ_only_by_noise(tmp_path):
    runs = [
        make_run(tmp_path / "runs" / f"{method}-{seed}", method, seed, 0.8, ROWS, noise_seed=number * 10 + seed)
        for number, method in enumerate(("lora", "hybrid"))
        for seed in (1, 2)
    ]
    result = compare_runs(runs, baselines=False, resamples=200)
    assert {test["outcome"] for test in result["tests"]} == {"none"}
    assert "no difference beyond noise between hybrid and lora" in result["statements"][0]
    assert result["report"] is None


def test_one_seed_each_says_what_is_not_known(tmp_path):
    runs = [make_run(tmp_path / "runs" / method, method, 1, 0.8, ROWS[:60]) for method in ("lora", "hybrid")]
    result = compare_runs(runs, baselines=False, resamples=100)
    assert "One seed each" in result["statements"][0]
    assert result["tests"][0]["per_seed"][0]["p"] == result["tests"][0]["p"]


def test_a_confounded_difference_is_not_put_down_to_the_method(tmp_path):
    runs = [
        make_run(tmp_path / "runs" / "a", "lora", 1, 0.7, ROWS),
        make_run(tmp_path / "runs" / "b", "hybrid", 1, 0.95, ROWS, config={"optimizer.learning_rate": 0.01}),
    ]
    out = tmp_path / "report.html"
    result = compare_runs(runs, out, baselines=False, resamples=100)
    assert result["conditions"]["verdict"] == "not comparable: optimizer.learning_rate differs"
    assert "cannot be put down to the method: optimizer.learning_rate differs too" in result["statements"][0]
    page = out.read_text()
    assert 'class="verdict warn"' in page
    assert "Not comparable: optimizer.learning_rate differs." in page


def test_tickets_are_matched_by_id(tmp_path, folders):
    """Another order and a smaller sample of tickets changes what is compared, not who is compared with whom."""
    runs = [
        make_run(tmp_path / "runs" / "a", "lora", 1, 0.8, ROWS),
        make_run(tmp_path / "runs" / "b", "hybrid", 1, 0.8, ROWS, noise_seed=1),
    ]
    same = load_comparison(runs, baselines=False, resamples=50)
    assert same.pairs[0].estimate.value == 0.0
    from triagekit.evaluation.table import PredictionTable

    path = runs[1] / "eval" / "test" / "predictions.parquet"
    table, _ = PredictionTable.read(path)
    table.take(reversed(range(20, 300))).write(path, {})
    shuffled = load_comparison(runs, baselines=False, resamples=50)
    assert shuffled.tickets == 280
    assert shuffled.pairs[0].estimate.value == 0.0
    assert any("on the 280 that all share" in note for note in shuffled.notes)


def test_one_run_alone(tmp_path):
    run = make_run(tmp_path / "runs" / "lora-seed1", rows=ROWS[:40])
    out = tmp_path / "report.html"
    result = compare_runs([run], out, resamples=50)
    assert result["tests"] == []
    assert any("No baseline was measured" in note for note in result["notes"])
    assert "One method" in out.read_text()


def test_every_run_that_cannot_be_compared_is_named_with_what_to_do(tmp_path):
    good = make_run(tmp_path / "runs" / "good", rows=ROWS[:20])
    bare = make_run(tmp_path / "runs" / "bare", rows=ROWS[:20], evaluated=False)
    young = make_run(tmp_path / "runs" / "young", rows=ROWS[:20])
    (young / "summary.json").unlink()
    other = make_run(tmp_path / "runs" / "other", schema_name="erp_urgency", count=20)
    with pytest.raises(TriageError) as caught:
        compare_runs([good, bare, young, other, tmp_path / "runs" / "goood"])
    message = str(caught.value)
    assert f"triage evaluate {bare} --split test" in message
    assert "young is not finished" in message
    assert "erp_urgency" in message
    assert "Did you mean 'good'?" in message


def test_the_same_run_twice_is_refused(folders):
    with pytest.raises(TriageError, match="named twice"):
        compare_runs([folders[0], folders[0].parent / "." / folders[0].name])


def test_other_schemas_work_too(tmp_path):
    runs = [make_run(tmp_path / "runs" / m, m, 1, 0.8, schema_name="erp_urgency", count=60) for m in ("lora", "hybrid")]
    result = compare_runs(runs, tmp_path / "report.html", baselines=False, resamples=50)
    assert result["schema"] == "erp_urgency"


def test_missing_evaluations_are_made_when_asked(tmp_path, monkeypatch, folders):
    run = shutil.copytree(folders[0], tmp_path / "run")
    shutil.move(run / "eval", tmp_path / "kept")
    asked = []

    def stand_in(folder, split, progress):
        asked.append((folder, split))
        shutil.move(tmp_path / "kept", folder / "eval")

    monkeypatch.setattr("triagekit.compare.report.evaluate_run", stand_in)
    compare_runs([run], evaluate=True, baselines=False, resamples=50)
    assert asked == [(run, "test")]


class Tags(HTMLParser):
    """Every tag with its attributes, and whether tags close in order."""

    VOID = {"meta", "link", "br", "input", "img", "hr"}
    SVG_EMPTY = {"path", "use", "rect", "circle"}

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.wrong = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_is_well_formed_self_contained_and_escaped(report):
    _, page = report
    parser = Tags()
    parser.feed(page)
    assert not parser.wrong
    assert not parser.open
    names = [tag for tag, _ in parser.tags]
    assert "script" not in names
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>Anna" not in page
    for tag, attributes in parser.tags:
        for key in ("src", "href", "xlink:href"):
            value = attributes.get(key, "#")
            assert value.startswith("#") or (tag == "link" and value == "data:,"), (tag, value)
    assert not re.findall(r"@import|url\((?!#)", page)
    ids = [attributes["id"] for _, attributes in parser.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', page))
    assert used <= set(ids)


def test_figures_take_their_colours_from_the_page(report):
    _, page = report
    assert page.count("<svg") == 5
    svgs = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--series-1)" in svgs
    assert "currentColor" in svgs
    assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", svgs)


def test_the_page_says_how_it_was_made(report, folders):
    _, page = report
    assert f"triage compare {folders[0]}" in page
    assert "d" * 16 in page
    assert Path(folders[0]).name in page
