"""Macro-F1 in the comparison: of every method and baseline on the shared tickets, with intervals over tickets."""

from __future__ import annotations

import json

import pytest
from fake_runs import gold_rows, make_baselines, make_run

from triagekit.compare.report import compare_runs
from triagekit.schema import load_schema

SCHEMA = load_schema("it_tickets")
SEEDS = (1, 2)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("macro_f1")
    rows = gold_rows(SCHEMA, 300)
    runs = [
        make_run(folder / f"{name}-seed{seed}", name, seed, accuracy, rows)
        for name, accuracy in (("lora", 0.5), ("hybrid", 0.8))
        for seed in SEEDS
    ]
    make_baselines(folder, rows)
    out = folder / "report.html"
    return folder, compare_runs(runs, baselines=folder, out=out, resamples=200), out.read_text(encoding="utf-8")


def test_it_is_the_mean_of_the_evaluations_inside_its_interval(compared):
    folder, found, _ = compared
    for method in found["methods"]:
        measured = [json.loads((folder / run / "eval" / "test" / "metrics.json").read_text()) for run in method["runs"]]
        assert set(method["macro_f1"]) == {field.name for field in SCHEMA.label_fields}
        for field, figure in method["macro_f1"].items():
            values = [own["fields"][field]["macro_f1"]["value"] for own in measured]
            assert figure["value"] == pytest.approx(sum(values) / len(SEEDS))
            assert 0 <= figure["low"] < figure["value"] < figure["high"] <= 1
            assert figure["spread"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
            # Of one evaluation; the mean of two is no less sure.
            one = measured[0]["fields"][field]["macro_f1"]
            assert figure["high"] - figure["low"] < 1.2 * (one["high"] - one["low"])
    lora, hybrid = (method["macro_f1"]["category"] for method in found["methods"])
    assert lora["high"] < hybrid["low"]


def test_baselines_have_it_too_and_the_report_shows_the_intervals(compared):
    _, found, page = compared
    assert all(own["macro_f1"]["category"]["spread"] is None for own in found["baselines"])
    row = page.partition("category, macro-F1")[2].partition("</tr>")[0]
    assert row.count('class="interval"') == len(found["methods"]) + len(found["baselines"])
