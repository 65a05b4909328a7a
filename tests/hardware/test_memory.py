"""The arithmetic of memory estimates; the activations are held against a real step in test_memory_measured.py."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from triagekit.files.resources import configs_folder
from triagekit.hardware.activations import LOGITS_AT_ONCE, logit_memory
from triagekit.hardware.ladder import Rung, load_ladder
from triagekit.hardware.memory import (
    LIVE_PARAMETERS,
    REDUCE_BUCKET,
    TrainingLoad,
    estimate_memory,
    quantised_bits,
    trained_parameters,
)
from triagekit.hardware.model_shape import model_shape

GIB = 2**30
ONE = Rung(name="one", memory_gb=80)
LORA = TrainingLoad()


def two(sharding):
    return Rung(name="two", count=2, memory_gb=80, sharding=sharding, launcher="2gpu_ddp")


@pytest.fixture(scope="module")
def shape():
    return model_shape("Qwen/Qwen2.5-1.5B")


# An independent hand calculation: GiB of bf16 weights, of NF4 weights with double quantisation, of the adapter (rank 16,
# all linear) with its gradients and 8-bit Adam, of all logits of 512 tokens at 10 bytes each.
BY_HAND = {
    "HuggingFaceTB/SmolLM2-360M": (0.67, 0.24, 0.08, 0.23),
    "Qwen/Qwen2.5-0.5B": (0.92, 0.43, 0.08, 0.72),
    "Qwen/Qwen3-0.6B": (1.11, 0.50, 0.09, 0.72),
    "meta-llama/Llama-3.2-1B": (2.30, 0.96, 0.10, 0.61),
    "Qwen/Qwen2.5-1.5B": (2.88, 1.06, 0.17, 0.72),
    "Qwen/Qwen3-1.7B": (3.20, 1.26, 0.16, 0.72),
    "Qwen/Qwen2.5-3B": (5.75, 1.91, 0.28, 0.72),
    "Qwen/Qwen3-4B": (7.49, 2.47, 0.31, 0.72),
    "Qwen/Qwen2.5-7B": (14.18, 5.17, 0.38, 0.73),
}


@pytest.mark.parametrize(("base", "by_hand"), BY_HAND.items())
def test_parts_agree_with_a_calculation_by_hand(base, by_hand):
    weights, quantised, adapter, logits = by_hand
    shape = model_shape(base)
    plain = estimate_memory(shape, LORA, ONE)
    small = TrainingLoad(
        bits=4,
        precision="fp16",
        optimizer="paged_adamw_8bit",
        micro=1,
        eval_rows=1,
        trained_tokens=512,
        length=512,
        gradient_checkpointing=True,
    )
    estimate = estimate_memory(shape, small, load_ladder().rung("4GB"))
    assert plain.weights / GIB == pytest.approx(weights, abs=0.01)
    largest = 2 * max(inputs * outputs for _, inputs, outputs in shape.linears)
    assert (estimate.weights + estimate.quantisation - largest) / GIB == pytest.approx(quantised, abs=0.03)
    assert (estimate.adapter + estimate.gradients + estimate.optimizer) / GIB == pytest.approx(adapter, abs=0.01)
    # Ours counts 12 bytes a logit: what backward holds, in float32. A frozen head has a quarter GiB at once at most.
    assert logit_memory(shape, replace(small, method="full")) / GIB > logits * 12 / 10 - 0.01
    assert estimate.logits / GIB == pytest.approx(min(logits * 12 / 10, 0.25), abs=0.01)


def test_bits_of_a_quantised_weight():
    assert quantised_bits(4, double_quant=True) == pytest.approx(4.127, abs=0.0005)
    assert quantised_bits(4, double_quant=False) == 4.5
    assert quantised_bits(8, double_quant=True) == 8


def test_embeddings_and_head_are_not_quantised(shape):
    load = replace(LORA, bits=4)
    saved = estimate_memory(shape, LORA, ONE).weights - estimate_memory(shape, load, ONE).weights
    assert saved == shape.linear_parameters * 3 // 2
    untied = model_shape("Qwen/Qwen2.5-7B")
    assert untied.other_parameters > 2 * untied.head_parameters


@pytest.mark.parametrize(
    ("optimizer", "low", "high"), [("adamw", 8, 8), ("adamw_8bit", 2, 2.1), ("adafactor", 0, 0.6), ("sgd", 0, 0)]
)
def test_optimizers_keep_so_many_bytes_a_trained_weight(shape, optimizer, low, high):
    load = replace(LORA, optimizer=optimizer)
    assert low <= estimate_memory(shape, load, ONE).optimizer / trained_parameters(shape, load) <= high


def test_trained_weights_of_each_method(shape):
    def trained(**changes):
        return trained_parameters(shape, replace(LORA, **changes))

    # 28 layers of q, k, v, o, gate, up, down at rank 16: PEFT prints this number for Qwen2.5-1.5B.
    assert trained() == 18_464_768
    assert trained(rank=32) == 2 * trained()
    assert trained(targets=("q_proj", "v_proj")) == 28 * 16 * (2 * 1536 + 1536 + 256)
    outputs = 1536 + 2 * 256 + 1536 + 2 * 8960 + 1536
    assert trained(dora=True) == trained() + 28 * outputs
    assert trained(method="hybrid") == trained() + 151_936 * 1536 + (2 * 28 + 1) * 1536
    assert trained(method="hybrid", head="output_tokens", output_tokens=900) == trained() + 900 * 1536 + 57 * 1536
    assert trained(method="hybrid", head="none") == trained() + 57 * 1536
    assert trained(layers=7) == trained() // 4
    assert trained(method="full") == shape.parameters


def test_logits_are_those_of_trained_tokens_only(shape):
    load = replace(LORA, micro=2, length=512, trained_tokens=50)
    assert logit_memory(shape, load) == 2 * 50 * 151_936 * 12
    whole = replace(load, method="full", trained_tokens=5000)
    assert logit_memory(shape, whole) < LOGITS_AT_ONCE + 6 * shape.head_parameters


def test_there_are_only_so_many_logits_at_once(shape):
    load = replace(LORA, micro=16, length=512, trained_tokens=200)
    assert LOGITS_AT_ONCE - 151_936 * 12 < logit_memory(shape, load) <= LOGITS_AT_ONCE
    # A trained head has its copy in half precision and its gradient in float32 beside them.
    extra = logit_memory(shape, replace(load, method="hybrid")) - logit_memory(shape, load)
    assert extra == 6 * shape.head_parameters
    for sharding in ("zero2", "zero3"):
        assert estimate_memory(shape, load, two(sharding)).logits == logit_memory(shape, load)


def test_full_fine_tuning_keeps_float32_masters(shape):
    estimate = estimate_memory(shape, replace(LORA, method="full"), ONE)
    assert estimate.weights == 4 * shape.parameters
    assert estimate.gradients == 4 * shape.parameters and estimate.optimizer == 8 * shape.parameters
    assert estimate.adapter == 0


def test_zero_shares_what_it_says():
    shape = model_shape("Qwen/Qwen2.5-7B")
    full = replace(LORA, method="full", micro=1)
    ddp, zero2, zero3 = (estimate_memory(shape, full, two(sharding)) for sharding in ("ddp", "zero2", "zero3"))
    assert ddp.gradients == 8 * shape.parameters, "DDP's buckets are copies"
    assert zero2.gradients < 0.27 * ddp.gradients and zero2.weights == ddp.weights
    assert zero2.optimizer == (8 + 4) * shape.parameters // 2
    assert zero3.weights == 2 * shape.parameters + 4 * 10**9
    assert zero3.peak < zero2.peak < ddp.peak
    four = Rung(name="four", count=4, memory_gb=80, sharding="zero2", launcher="x")
    assert estimate_memory(shape, full, four).optimizer == 3 * shape.parameters


def test_zero_is_reckoned_as_it_is_configured():
    for stage in (2, 3):
        path = configs_folder() / "deepspeed" / f"zero{stage}.json"
        zero = json.loads(path.read_text(encoding="utf-8"))["zero_optimization"]
        assert zero["reduce_bucket_size"] == REDUCE_BUCKET
        assert zero.get("stage3_max_live_parameters", LIVE_PARAMETERS) == LIVE_PARAMETERS


def test_checkpointing_and_fewer_rows_take_less(shape):
    plain = estimate_memory(shape, LORA, ONE)
    assert estimate_memory(shape, replace(LORA, gradient_checkpointing=True), ONE).activations < plain.activations / 5
    assert estimate_memory(shape, replace(LORA, micro=4), ONE).activations < 0.55 * plain.activations
    longer = estimate_memory(shape, replace(LORA, length=1024), ONE).activations
    assert 2 * plain.activations < longer < 2.3 * plain.activations, "the mask grows with the square of the length"


def test_the_peak_is_the_largest_moment(shape):
    step = estimate_memory(shape, LORA, ONE)
    assert step.peak == step.steady + step.activations + step.logits
    validation = estimate_memory(shape, replace(LORA, eval_rows=512), ONE)
    assert validation.peak == validation.steady + validation.evaluation > step.peak
    loading = estimate_memory(
        shape, replace(LORA, micro=1, eval_rows=1, length=16, pissa=True, optimizer="sgd", rank=1), ONE
    )
    assert loading.peak == loading.context + loading.loader_peak
    assert step.as_dict()["peak"] == step.peak and step.as_dict()["weights"] == step.weights


def test_several_cards_need_buffers_to_talk(shape):
    assert estimate_memory(shape, LORA, two("ddp")).context > estimate_memory(shape, LORA, ONE).context


def test_the_smallest_rung_holds_a_model_of_1_5_billion(shape):
    small = TrainingLoad(
        bits=4, precision="fp16", micro=1, eval_rows=2, length=512, trained_tokens=128, gradient_checkpointing=True
    )
    assert estimate_memory(shape, small, load_ladder().rung("4GB")).peak < 0.95 * 4e9
    seven = model_shape("Qwen/Qwen2.5-7B")
    assert estimate_memory(seven, small, load_ladder().rung("4GB")).peak > 4 * GIB
