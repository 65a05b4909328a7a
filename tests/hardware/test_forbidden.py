"""Pairs that are refused when a run is planned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from triagekit.hardware.devices import parse_devices
from triagekit.hardware.forbidden import check_combination
from triagekit.hardware.ladder import Rung
from triagekit.hardware.memory import TrainingLoad

LOAD = TrainingLoad()
CPU = Rung(name="cpu", count=0, memory_gb=8, precision="fp32")


def gpu(**changes):
    return Rung(name="gpu", memory_gb=16, **changes)


def pair(sharding):
    return Rung(name="pair", count=2, memory_gb=16, sharding=sharding, launcher="x")


REFUSED = [
    ("QLoRA and ZeRO-3", {"bits": 4}, pair("zero3"), None, "sharding: zero3"),
    ("8 bits and ZeRO-3", {"bits": 8}, pair("zero3"), None, "memory goes up"),
    ("full and 4 bits", {"bits": 4, "method": "full"}, gpu(), None, "adapter.method: full"),
    ("PiSSA and 4 bits", {"bits": 4, "pissa": True}, gpu(), None, "adapter.pissa"),
    ("DoRA, 4 bits and ZeRO-2", {"bits": 4, "dora": True}, pair("zero2"), None, "adapter.dora"),
    ("DoRA and ZeRO-3", {"dora": True}, pair("zero3"), None, "adapter.dora"),
    ("PiSSA and ZeRO-3", {"pissa": True}, pair("zero3"), None, "adapter.pissa"),
    ("head rows and ZeRO-3", {"method": "hybrid", "head": "output_tokens"}, pair("zero3"), None, "output_tokens"),
    ("bf16 on a T4", {}, gpu(), "T4", "T4 (capability 7.5) has no bfloat16 units"),
    ("bf16 on a rung for old cards", {}, gpu(capability=7.0), None, "no bfloat16 units"),
    (
        "bf16 products on a T4",
        {"precision": "fp16", "bits": 4, "quantised_compute": "bf16"},
        gpu(),
        "T4",
        "compute_dtype",
    ),
    ("8 bits on a V100", {"precision": "fp16", "bits": 8}, gpu(), "V100-16GB", "quantization.bits: 8"),
    ("fp16 on a CPU", {"precision": "fp16"}, CPU, None, "needs a GPU"),
]


@pytest.mark.parametrize(
    ("changes", "rung", "card", "said"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_each_pair_is_refused_in_one_line(changes, rung, card, said):
    device = parse_devices(card)[0] if card else None
    problems = check_combination(replace(LOAD, **changes), rung, device)
    assert len(problems) == 1
    assert said in str(problems[0]) and "\n" not in str(problems[0])
    assert problems[0].hint


@pytest.mark.parametrize(
    ("changes", "rung", "card"),
    [
        ({}, gpu(), "A100"),
        ({"precision": "fp16"}, gpu(), "T4"),
        ({"bits": 4}, pair("ddp"), "A100"),
        ({"bits": 4}, pair("zero2"), "A100"),
        ({"bits": 4, "dora": True}, pair("ddp"), "A100"),
        ({"method": "hybrid"}, pair("zero3"), "A100"),
        ({"method": "hybrid", "head": "output_tokens"}, pair("zero2"), "A100"),
        ({"bits": 8, "precision": "fp16"}, gpu(), "T4"),
        ({"precision": "bf16"}, CPU, None),
        ({"precision": "fp32", "optimizer": "paged_adamw_8bit"}, CPU, None),
    ],
)
def test_what_works_is_not_refused(changes, rung, card):
    device = parse_devices(card)[0] if card else None
    assert check_combination(replace(LOAD, **changes), rung, device, bitsandbytes=True) == []


def test_bitsandbytes_is_asked_for_where_it_is_used():
    load = replace(LOAD, bits=4, optimizer="adamw_8bit")
    problems = check_combination(load, gpu(), bitsandbytes=False)
    assert [problem.where for problem in problems] == ["quantization (4 bits)", "optimizer.name: adamw_8bit"]
    assert check_combination(load, gpu(), bitsandbytes=None) == []
    assert check_combination(LOAD, gpu(), bitsandbytes=False) == []


def test_several_mistakes_come_together():
    load = replace(LOAD, bits=4, method="full", pissa=True)
    assert len(check_combination(load, pair("zero3"), parse_devices("T4")[0])) == 5
