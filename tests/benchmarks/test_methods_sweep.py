"""The record of a sweep: macro-F1 with intervals over tickets and seeds, differences to the first method, and its table."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path += [str(TOP / "benchmarks"), str(TOP / "tests" / "compare")]

import methods_sweep  # noqa: E402
from fake_runs import gold_rows, make_baselines, make_run  # noqa: E402

from triagekit.compare.design import Design  # noqa: E402
from triagekit.compare.report import compare_runs  # noqa: E402
from triagekit.files.atomic import write_json  # noqa: E402
from triagekit.schema import load_schema  # noqa: E402

SCHEMA = load_schema("it_tickets")
SEEDS = (1, 2, 3)
ACCURACY = {"plain": 0.75, "twin": 0.75, "worse": 0.45}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A sweep of three methods: `twin` is as good as `plain`, `worse` gets far fewer right. What its record would hold."""
    folder = tmp_path_factory.mktemp("sweeps") / "sweep"
    rows = gold_rows(SCHEMA, 300)
    names = {}
    for number, (name, accuracy) in enumerate(ACCURACY.items()):
        for seed in SEEDS:
            settings = {"learning_rate": 1e-3 * (number + 1)}
            run = make_run(
                *(folder / f"{name}-seed{seed}", "lora", seed, accuracy, rows),
                config={"optimizer": settings},
                noise_seed=10 * number + seed,
            )
            names[run] = name
    make_baselines(folder, rows)
    compared = compare_runs(list(names), baselines=folder, resamples=100, design=Design(names=names))
    write_json(folder / "comparison.json", compared)
    options = argparse.Namespace(set="it_service", rows=1600, epochs=1.0, config=None, rates_from=None)
    return methods_sweep.figures(folder, options)


def test_macro_f1_is_the_mean_over_fields_and_seeds_inside_its_interval(found):
    assert list(found["methods"]) == list(ACCURACY)
    for own in found["methods"].values():
        fields = own["macro_f1"].values()
        assert [len(values) for values in fields] == [len(SEEDS)] * len(SCHEMA.label_fields)
        mean = own["macro_f1_mean"]
        assert mean["value"] == pytest.approx(sum(sum(values) for values in fields) / len(fields) / len(SEEDS))
        assert 0 <= mean["low"] < mean["value"] < mean["high"] <= 1
        assert mean["covers"] == "tickets and seeds"
        assert mean["seed_error"] > 0
    for own in found["baselines"].values():
        assert own["macro_f1_mean"]["value"] == pytest.approx(sum(own["macro_f1"].values()) / len(own["macro_f1"]))
        assert own["macro_f1_mean"]["covers"] == "tickets"
    json.dumps(found, allow_nan=False)


def test_a_planted_difference_is_beyond_noise_and_a_twin_is_not(found):
    methods = found["methods"]
    assert methods["plain"]["macro_f1_difference"] is None
    assert all(own["macro_f1_difference"] is None for own in found["baselines"].values())
    for name in ("twin", "worse"):
        own = methods[name]["macro_f1_difference"]
        apart = methods[name]["macro_f1_mean"]["value"] - methods["plain"]["macro_f1_mean"]["value"]
        assert (own["from"], own["value"]) == ("plain", pytest.approx(apart))
        assert own["adjusted_p"] >= own["p"]
    twin, worse = (methods[name]["macro_f1_difference"] for name in ("twin", "worse"))
    assert twin["low"] < 0 < twin["high"] and twin["adjusted_p"] > 0.05
    assert worse["high"] < 0 and worse["adjusted_p"] < 0.05


def test_tickets_are_drawn_for_both_methods_together(found):
    """Tickets that are hard for one method are hard for the other, so their draw weighs less on the difference."""
    plain, twin = (found["methods"][name] for name in ("plain", "twin"))
    alone = plain["macro_f1_mean"]["ticket_error"] ** 2 + twin["macro_f1_mean"]["ticket_error"] ** 2
    assert 0 < twin["macro_f1_difference"]["ticket_error"] ** 2 < 0.9 * alone


def test_the_table_shows_intervals_and_what_each_method_is_apart(found):
    lines = methods_sweep.table("made.json", found).splitlines()
    assert lines[0] == "**it_service, 1,600 rows** (made.json)"
    assert lines[2].endswith("| macro-F1, % | macro-F1 less plain's, points |")
    assert len({line.count("|") for line in lines[2:]}) == 1
    number, interval = r"\d+\.\d", r"\d+\.\d \[\d+\.\d, \d+\.\d\]"
    plain, twin = lines[4:6]
    assert re.fullmatch(rf"\| plain \| 0.001 \| 155,648 \| {interval} \| {number} \| {interval} \| \|", plain)
    assert re.search(rf"\| {interval} \| [+−]{number} \[−{number}, \+{number}\], p [01]\.\d\d \|$", twin)
    assert lines[6].endswith("], p < 0.01 |"), "worse"
    assert re.fullmatch(rf"\| \*majority\* \| \| \| {interval} \| \| {interval} \| \|", lines[7])


def test_a_record_from_before_there_were_intervals_still_has_its_table(found):
    kept = {"macro_f1_mean", "macro_f1_difference"}

    def earlier(kind):
        return {name: {key: own[key] for key in own.keys() - kept} for name, own in found[kind].items()}

    old = {**found, "methods": earlier("methods"), "baselines": earlier("baselines")}
    lines = methods_sweep.table("made.json", old).splitlines()
    assert lines[2].endswith("| over seeds ± | macro-F1, % |")
    value = f"{100 * found['methods']['plain']['macro_f1_mean']['value']:.1f}"
    assert lines[4].startswith("| plain |") and lines[4].endswith(f"| {value} |")


def test_the_page_on_methods_shows_the_records_as_they_are():
    page = (TOP / "docs" / "methods.md").read_text(encoding="utf-8")
    shown = 0
    for text in re.split(r"\n\n(?=\*\*)", methods_sweep.tables()):
        heading, _, rows = text.partition("\n\n")
        if heading in page:
            assert rows in page, f"docs/methods.md differs from {heading}; renew it by methods_sweep.py --table"
            shown += 1
    assert shown >= 4
