"""Planted differences in conditions are listed, and only the method's own ones leave runs comparable."""

from __future__ import annotations

import pytest
from fake_runs import gold_rows, make_run

from triagekit.compare.conditions import check_conditions
from triagekit.compare.design import Design
from triagekit.compare.methods import group_runs
from triagekit.compare.runs import load_runs
from triagekit.schema import load_schema

ROWS = gold_rows(load_schema("it_tickets"), 20)


def conditions_of(tmp_path, *options):
    folders = [
        make_run(tmp_path / "runs" / f"run{number}", rows=option.pop("rows", ROWS), **option)
        for number, option in enumerate(options)
    ]
    return check_conditions(group_runs(load_runs(folders, "test")))


def test_only_the_adapter_differs(tmp_path):
    conditions = conditions_of(
        tmp_path,
        {"method": "lora"},
        {"method": "hybrid"},
        {"method": "lora", "seed": 2},
        {"method": "hybrid", "seed": 2},
    )
    assert conditions.comparable
    assert conditions.verdict == "comparable"
    assert [(item.name, item.kind) for item in conditions.differences] == [("adapter.method", "method")]
    assert conditions.same["optimizer.learning_rate"] == "0.002"


def test_every_planted_difference_is_named_with_its_values(tmp_path):
    # The published comparison that was called "identical conditions".
    conditions = conditions_of(
        tmp_path,
        {"method": "lora", "config": {"optimizer.learning_rate": 1e-6, "optimizer.schedule": "linear",
                                      "optimizer.weight_decay": 0.01, "adapter.dropout": 0.15}},
        {"method": "hybrid", "config": {"optimizer.learning_rate": 5e-6, "optimizer.schedule": "cosine",
                                        "optimizer.weight_decay": 0.1, "adapter.dropout": 0.05}},
    )  # fmt: skip
    assert not conditions.comparable
    listed = {item.name: item for item in conditions.differences}
    assert listed["optimizer.learning_rate"].values == {
        "lora": "1e-06", "hybrid": "5e-06",
    }  # fmt: skip
    assert listed["optimizer.learning_rate"].kind == "confound"
    assert listed["adapter.dropout"].kind == "method"
    assert conditions.confounders("hybrid", "lora") == (
        "optimizer.learning_rate", "optimizer.schedule", "optimizer.weight_decay",
    )  # fmt: skip
    assert "optimizer.learning_rate" in conditions.verdict


@pytest.mark.parametrize(
    ("config", "summary", "name"),
    [
        ({}, {"data_fingerprint": "f" * 16}, "data_fingerprint"),
        ({}, {"base_fingerprint": "f" * 16}, "base_fingerprint"),
        ({}, {"train_rows": 1000}, "train_rows"),
        ({"batch.effective": 32}, {"effective_batch": 32}, "batch.effective"),
        ({"epochs": 1.0}, {"epochs": 1.0}, "epochs"),
        ({"max_steps": 50}, {"steps": 50}, "max_steps"),
        ({"prompt.strategy": "implicit"}, {"template_fingerprint": "f" * 16}, "prompt.strategy"),
        ({"seed": 3}, {"seed": 3}, "seeds"),
    ],
)
def test_each_condition_confounds(tmp_path, config, summary, name):
    conditions = conditions_of(tmp_path, {"method": "lora"}, {"method": "hybrid", "config": config, "summary": summary})
    assert name in conditions.confounders("lora", "hybrid")


def test_evaluated_on_other_tickets(tmp_path):
    conditions = conditions_of(tmp_path, {"method": "lora"}, {"method": "hybrid", "rows": ROWS[:15]})
    assert conditions.confounders("lora", "hybrid") == ("evaluated tickets",)


def test_what_follows_from_a_setting_is_not_counted_twice(tmp_path):
    conditions = conditions_of(
        tmp_path,
        {"method": "lora"},
        {"method": "lora", "config": {"epochs": 1.0}, "summary": {"epochs": 1.0, "steps": 33}},
    )
    assert conditions.comparable  # one setting was changed on purpose: it is what is compared
    assert {item.name for item in conditions.differences if item.explained} >= {"steps"}


def test_where_the_data_lies_does_not_matter(tmp_path):
    conditions = conditions_of(tmp_path, {"method": "lora"}, {"method": "hybrid", "config": {"data": "/elsewhere"}})
    assert conditions.comparable


def test_speed_settings_and_hardware_are_listed_but_do_not_confound(tmp_path):
    conditions = conditions_of(
        tmp_path,
        {"method": "lora"},
        {"method": "hybrid", "config": {"batch.micro": 4}, "summary": {"hardware": {"device": "cuda"}}},
    )
    assert conditions.comparable
    assert {(item.name, item.kind) for item in conditions.differences} >= {
        ("batch.micro", "speed"), ("hardware", "environment"),
    }  # fmt: skip


def test_what_the_rung_made_of_the_settings_counts_and_not_the_settings(tmp_path):
    """Equal files, but one run came to a smaller card: another number type is told, a base in 4 bits confounds."""
    large = {"rung": "2xA100", "precision": "bf16", "quantization": None, "max_length": 1024}
    half, small = (
        {**large, "rung": "16GB-T4", "precision": "fp16"},
        {**large, "rung": "8GB", "quantization": {"bits": 4}},
    )
    config = {"hardware.rung": "auto", "precision": "auto", "prompt.max_length": 1024}
    named = {**config, "hardware.rung": "8GB"}
    conditions = conditions_of(
        tmp_path / "half",
        {"method": "lora", "config": config, "summary": large},
        {"method": "hybrid", "config": named, "summary": half},
    )
    assert conditions.comparable
    assert {(item.name, item.kind) for item in conditions.differences} >= {
        ("precision (as run)", "environment"),
        ("rung", "environment"),
    }
    conditions = conditions_of(
        tmp_path / "small",
        {"method": "lora", "config": config, "summary": large},
        {"method": "hybrid", "config": config, "summary": {**small, "max_length": 512}},
    )
    assert conditions.confounders("lora", "hybrid") == ("prompt.max_length", "quantization", "quantization.bits")


def test_seeds_of_one_method_may_have_run_on_different_rungs(tmp_path):
    folders = [
        make_run(
            tmp_path / name,
            rows=ROWS,
            seed=seed,
            config={"hardware.rung": rung},
            summary={"rung": name, "max_length": 512},
        )
        for seed, (name, rung) in enumerate([("2xA100", "auto"), ("24GB", "24GB")])
    ]
    (method,) = group_runs(load_runs(folders, "test"))
    assert len(method.runs) == 2


def test_early_stopping_makes_steps_a_result(tmp_path):
    config = {"evaluation.early_stopping": {"patience": 3, "threshold": 0.001}}
    conditions = conditions_of(
        tmp_path, {"method": "lora", "config": config, "summary": {"steps": 80}},
        {"method": "hybrid", "config": config, "summary": {"steps": 100}},
    )  # fmt: skip
    assert conditions.comparable
    assert "steps" in {item.name for item in conditions.differences}


def test_methods_of_one_kind_are_named_by_what_differs(tmp_path):
    folders = [
        make_run(tmp_path / "runs" / "a", rows=ROWS),
        make_run(tmp_path / "runs" / "b", rows=ROWS, config={"adapter.r": 8}),
        make_run(tmp_path / "runs" / "c", rows=ROWS, config={"adapter.r": 8}, seed=2),
    ]
    groups = group_runs(load_runs(folders, "test"))
    assert [(group.name, len(group.runs)) for group in groups] == [("lora (r=16)", 1), ("lora (r=8)", 2)]


def test_what_was_planned_does_not_confound(tmp_path):
    folders = [
        make_run(tmp_path / "runs" / name, rows=ROWS, config={"optimizer": {"learning_rate": rate}, "max_steps": steps})
        for name, rate, steps in (("first", 1e-3, 10), ("second", 2e-3, 20))
    ]
    runs = load_runs(folders, "test")
    design = Design(
        {folders[0]: "slow", folders[1]: "fast"}, frozenset({"max_steps"}), frozenset({"optimizer.learning_rate"})
    )
    methods = group_runs(runs, design)
    assert [method.name for method in methods] == ["slow", "fast"]
    assert not check_conditions(methods).comparable
    planned = check_conditions(methods, design)
    assert planned.comparable
    assert {item.name: item.kind for item in planned.differences} == {
        "max_steps": "method",
        "optimizer.learning_rate": "chosen",
    }
