"""Each warning: there when it should be, not where it should not, and with what to set."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from training_helpers import SCHEMA, rows

from triagekit.data.rows import Row
from triagekit.hardware.model_shape import model_shape
from triagekit.training.learning_rate_ranges import usual_rates
from triagekit.training.settings import TrainSettings
from triagekit.training.signs_of_trouble import absent_values, describe_signs, signs_in_first_loss, signs_in_plan
from triagekit.training.train import load_train_settings

CLEAN = {"rows": 640, "tickets_cut": 0}


def signs(steps=200, train=CLEAN, weights=5_000_000, absent=None, **changes):
    values = {"data": "d", "optimizer": {}, "batch": {}, "adapter": {}}
    settings = TrainSettings.model_validate({**values, **changes})
    return signs_in_plan(settings, steps, train, weights, absent or {})


def only(found):
    assert len(found) == 1, describe_signs(found)
    assert found[0].found and found[0].usual.startswith("Usual") and found[0].advice
    return found[0]


def test_the_defaults_give_no_sign():
    assert signs() == [] and describe_signs([]) == ""


def test_warmup_over_five_percent():
    sign = only(signs(optimizer={"warmup_share": 0.128}))
    assert "12.8% of the run, 26 of 200 steps" in sign.found and "optimizer.warmup_share=0.03" in sign.advice
    assert signs(optimizer={"warmup_share": 0.05}) == []


@pytest.mark.parametrize(
    ("method", "weights", "rate", "word"),
    [
        ("lora", 8e9, 1e-6, "low"),
        ("lora", 1.5e9, 5e-3, "high"),
        ("hybrid", 8e9, 5e-6, "low"),
        ("full", 5e6, 5e-3, "high"),
        ("full", 1.5e9, 1e-6, "low"),
        ("lora", 70e9, 1e-3, "high"),
    ],
)
def test_a_learning_rate_out_of_the_usual_range(method, weights, rate, word):
    sign = only(signs(weights=int(weights), adapter={"method": method}, optimizer={"learning_rate": rate}))
    assert f"{rate:g} is {word} for {method}" in sign.found
    advised = float(sign.advice.split("learning_rate=")[1].split(",")[0])
    again = {"adapter": {"method": method}, "optimizer": {"learning_rate": advised}}
    assert signs(weights=int(weights), **again) == []


def test_the_rate_of_lora_plus_is_that_of_its_slower_half():
    rate = {"learning_rate": 5e-6}
    assert only(signs(weights=8_000_000_000, optimizer=rate))
    assert signs(weights=8_000_000_000, optimizer=rate, adapter={"lora_plus_ratio": 16}) == []


@pytest.mark.parametrize(
    ("method", "weights", "rate"),
    [("lora", 1.5e9, 2e-4), ("lora", 7e9, 2e-4), ("lora", 65e9, 1e-4), ("full", 5e6, 5e-4), ("full", 7e9, 1e-5)],
)
def test_published_learning_rates_give_no_sign(method, weights, rate):
    assert signs(weights=int(weights), adapter={"method": method}, optimizer={"learning_rate": rate}) == []


def test_full_fine_tuning_wants_a_tenth_and_larger_bases_less():
    settings = [
        TrainSettings.model_validate({"data": "d", "adapter": {"method": method}}) for method in ("lora", "full")
    ]
    lora, full = (usual_rates(each.adapter, 10**9) for each in settings)
    assert full == pytest.approx([rate / 10 for rate in lora])
    ranges = [usual_rates(settings[0].adapter, 10**power) for power in range(6, 12)]
    assert ranges == sorted(ranges, reverse=True)


def test_a_large_effective_batch_for_lora():
    batch = {"effective": 64, "micro": 8}
    assert "64 rows" in only(signs(batch=batch)).found
    assert signs(batch=batch, adapter={"method": "full"}, optimizer={"learning_rate": 5e-4}) == []
    assert signs(batch={"effective": 32, "micro": 8}) == []


def test_few_steps_and_what_would_make_them_enough():
    assert "epochs=4 or more" in only(signs(steps=30)).advice
    assert "max_steps=40" in only(signs(steps=30, max_steps=30)).advice
    assert signs(steps=40) == []


def test_many_tickets_cut():
    sign = only(signs(train={"rows": 640, "tickets_cut": 40}))
    assert "6% of the training tickets (40 of 640)" in sign.found and "prompt.max_length above 512" in sign.advice
    assert "prompt.strategy=implicit" in sign.advice
    assert signs(train={"rows": 640, "tickets_cut": 32}) == []
    already = only(signs(train={"rows": 640, "tickets_cut": 40}, prompt={"strategy": "implicit"}))
    assert "implicit" not in already.advice


def test_values_that_no_training_row_has():
    data = [Row.from_json(row) for row in rows(40, 1)]
    assert absent_values(SCHEMA, data) == {}
    low = [row for row in data if row.record["priority"] == "Low"]
    absent = absent_values(SCHEMA, low)
    assert absent == {"priority": ["Medium", "High"]}
    assert "priority 'Medium', 'High'." in only(signs(absent=absent)).found
    assert "'5' and 3 more." in only(signs(absent={"many": list("12345678")})).found


def test_a_first_loss_far_from_what_can_be_expected():
    for own, good, bad in ((True, [8.2, 9.6], 9.8), (False, [0.5, 4.0, 7.6], 7.8)):
        assert [signs_in_first_loss(loss, 6144, own) for loss in good] == [[]] * len(good)
        sign = only(signs_in_first_loss(bad, 6144, own))
        assert f"first batch is {bad:.2f}" in sign.found and "base and tokenizer belong together" in sign.advice
        assert "already" in only(signs_in_first_loss(0.02, 6144, own)).advice
        for broken in (math.nan, math.inf):
            assert "precision=fp32" in only(signs_in_first_loss(broken, 6144, own)).advice


def test_all_signs_come_in_one_text():
    text = describe_signs(signs(steps=20, optimizer={"warmup_share": 0.2, "learning_rate": 1.0}))
    assert text.startswith("3 signs of trouble:\n  - Warm-up") and text.count("\n  - ") == 3


PRESETS = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "configs" / "train").glob("*.yaml")
    if "data:" in path.read_text(encoding="utf-8")
)
# What the comments in these files call harmful.
PRIOR = {
    "prior_e_hybrid": ["Warm-up", "The learning rate 5e-06 is low"],
    "prior_e_lora": ["The learning rate 1e-06 is low"],
    "prior_k_4gb": ["Warm-up"],
    "prior_k_instruct": [],
    "prior_w_3b": ["Warm-up"],
}


@pytest.mark.parametrize("name", PRESETS)
def test_shipped_presets_give_no_sign_but_those_kept_as_they_were(name):
    from triagekit.training.arguments import total_steps

    settings = load_train_settings(name, [])
    # As many rows as the demo's data has; whether tickets are cut depends on the base's tokenizer.
    found = signs_in_plan(settings, total_steps(settings, 640), CLEAN, model_shape(settings.base).parameters, {})
    expected = PRIOR.get(name, [])
    assert len(found) == len(expected), describe_signs(found)
    assert all(sign.found.startswith(start) for sign, start in zip(found, expected, strict=True))
