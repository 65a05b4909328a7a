"""The estimate of activations and logits against what PyTorch's allocator hands out in a real step."""

from __future__ import annotations

import pytest
from allocator import measure, measure_without_bfloat16_units, peak_of_a_step, random_model

from triagekit.hardware.ladder import Rung
from triagekit.hardware.memory import TrainingLoad, estimate_memory, trained_parameters
from triagekit.hardware.model_shape import shape_of_config
from triagekit.modeling.settings import AdapterSettings

ROWS, LENGTH, TRAINED = 2, 160, 16
CPU = Rung(name="here", count=0, memory_gb=1, precision="fp32")

# (name, family, float32?, adapter settings, gradient checkpointing, changes to the model)
CASES = [
    ("lora", "qwen2", False, {}, False, {}),
    ("lora fp32", "qwen2", True, {}, False, {}),
    ("lora deep", "qwen2", False, {}, False, {"num_hidden_layers": 7}),
    ("two targets", "qwen2", False, {"targets": ["q_proj", "v_proj"]}, False, {}),
    ("two targets fp32", "qwen2", True, {"targets": ["q_proj", "v_proj"]}, False, {}),
    ("checkpointing", "qwen2", False, {}, True, {}),
    ("checkpointing fp32", "qwen2", True, {}, True, {"num_hidden_layers": 7}),
    ("hybrid", "qwen2", False, {"method": "hybrid"}, False, {}),
    ("hybrid fp32", "qwen2", True, {"method": "hybrid"}, False, {}),
    ("hybrid output tokens", "qwen2", False, {"method": "hybrid", "head": "output_tokens"}, False, {}),
    ("hybrid norms", "qwen2", False, {"method": "hybrid", "head": "none"}, False, {}),
    ("full", "qwen2", False, {"method": "full"}, False, {}),
    ("full fp32", "qwen2", True, {"method": "full"}, False, {}),
    ("dora", "qwen2", False, {"dora": True}, False, {}),
    ("dora fp32", "qwen2", True, {"dora": True}, False, {}),
    ("dropout", "qwen2", False, {"dropout": 0.1}, False, {}),
    ("dropout fp32", "qwen2", True, {"dropout": 0.1}, False, {}),
    ("large vocabulary", "qwen2", False, {}, False, {"vocab_size": 30000, "num_hidden_layers": 2}),
    ("hybrid, large vocabulary", "qwen2", False, {"method": "hybrid"}, False, {"vocab_size": 30000}),
    ("llama", "llama", False, {}, False, {"tie_word_embeddings": False}),
    ("qwen3", "qwen3", False, {}, False, {}),
    ("gemma", "gemma", False, {}, False, {}),
    ("gemma3", "gemma3_text", False, {}, False, {"attn_implementation": "sdpa"}),
]


@pytest.fixture(scope="module")
def with_bfloat16():
    """What the cases in bfloat16 take, by their names, where this processor would show other numbers than most."""
    import torch

    if not torch.cpu._is_avx512_bf16_supported():
        return {}
    cases = [case for case in CASES if not case[2]]
    found = measure_without_bfloat16_units([[*case[1:], ROWS, LENGTH, TRAINED] for case in cases])
    return {case[0]: tuple(result) for case, result in zip(cases, found, strict=True)}


@pytest.mark.parametrize(
    ("name", "family", "float32", "adapter", "checkpointing", "changes"), CASES, ids=[c[0] for c in CASES]
)
def test_a_step_takes_what_the_estimate_says(with_bfloat16, name, family, float32, adapter, checkpointing, changes):
    import torch

    model = random_model(family, torch.float32 if float32 else torch.bfloat16, **changes)
    settings = AdapterSettings.model_validate(adapter)
    shape = shape_of_config("tiny", model.config.to_dict())
    load = TrainingLoad(
        method=settings.method,
        targets=None if settings.targets == "all-linear" else tuple(settings.targets),
        dora=settings.dora,
        dropout=settings.dropout,
        head=settings.head,
        output_tokens=100,
        precision="fp32" if float32 else "bf16",
        micro=ROWS,
        eval_rows=1,
        length=LENGTH,
        trained_tokens=TRAINED,
        gradient_checkpointing=checkpointing,
    )
    case = (family, float32, adapter, checkpointing, changes, ROWS, LENGTH, TRAINED)
    measured, trainable = with_bfloat16.get(name) or measure(*case)
    assert trained_parameters(shape, load) == trainable
    estimate = estimate_memory(shape, load, CPU)
    print(measured, estimate.activations + estimate.logits, (estimate.activations + estimate.logits) / measured)
    assert estimate.activations + estimate.logits == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("method", ["lora", "hybrid"])
def test_logits_piece_by_piece_take_what_the_estimate_says(monkeypatch, method):
    """A vocabulary so large that the logits of all trained tokens would be most of the step."""
    import torch

    from triagekit.hardware import activations
    from triagekit.training import loss

    peaks, estimates = [], []
    for budget in (activations.LOGITS_AT_ONCE, 4 * 60000 * activations.LOGIT_BYTES):
        for module in (activations, loss):
            monkeypatch.setattr(module, "LOGITS_AT_ONCE", budget)
        model = random_model("qwen2", torch.float32, vocab_size=60000, num_hidden_layers=1)
        shape = shape_of_config("tiny", model.config.to_dict())
        load = TrainingLoad(
            method=method,
            output_tokens=100,
            precision="fp32",
            micro=ROWS,
            eval_rows=1,
            length=LENGTH,
            trained_tokens=TRAINED,
        )
        settings = AdapterSettings(method=method)
        measured, _ = peak_of_a_step(model, settings, rows=ROWS, length=LENGTH, trained=TRAINED, mixed=False)
        estimate = estimate_memory(shape, load, CPU)
        peaks.append(measured)
        estimates.append(estimate.activations + estimate.logits)
    print(peaks, estimates)
    assert estimates == pytest.approx(peaks, rel=0.1)
    assert peaks[1] < {"lora": 0.6, "hybrid": 0.95}[method] * peaks[0]
