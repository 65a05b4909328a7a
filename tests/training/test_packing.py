"""Packed rows train what padded rows train: the same loss and gradients, the same runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from modeling_helpers import FAMILIES, random_model
from training_helpers import SCHEMA, metric_lines, rows

from triagekit.data.rows import Row
from triagekit.modeling.adapters import attach_adapter
from triagekit.modeling.base import load_base, load_tokenizer
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.settings import AdapterSettings, PromptSettings
from triagekit.modeling.shared_prefix import check
from triagekit.modeling.shared_prefix.attention import shared_prefix_attention_of
from triagekit.modeling.template import PromptTemplate
from triagekit.training import examples
from triagekit.training.batches import TrainingRows
from triagekit.training.collator import IGNORED, PaddingCollator, row_count, token_count
from triagekit.training.loss import compute_losses_in_forward, give_back_forward, normaliser, token_losses
from triagekit.training.packing import SharedPrefixCollator
from triagekit.training.sampler import EpochSampler
from triagekit.training.train import train

TICKETS = [Row.from_json(row) for row in rows(8, 1)]
CASES = {
    "one prompt": (TICKETS, [0] * 8, {}),
    "three prompts in turn": (TICKETS, [n % 3 for n in range(8)], {}),
    "one row": (TICKETS[:1], [0], {}),
    "an empty ticket": ([replace(TICKETS[0], text=""), *TICKETS[1:4]], [0] * 4, {}),
    "a ticket that is cut": ([replace(TICKETS[0], text="much too long " * 300), *TICKETS[1:4]], [0] * 4, {}),
    "class weights": (TICKETS, [0, 1] * 4, {"weights": {"category": {"Hardware": 3.0, "Network": 0.5}}}),
}


@pytest.fixture(scope="module")
def segments(tiny_model_folder):
    tokenizer = load_tokenizer(str(tiny_model_folder))
    template = PromptTemplate(tokenizer, SCHEMA, PromptSettings(strategy="mixed", max_length=400))
    return SegmentTokenizer(tokenizer, template)


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    base = load_base(str(tiny_model_folder), "fp32", device="cpu")
    trained, _ = attach_adapter(base, AdapterSettings(method="hybrid", r=4))
    torch.manual_seed(0)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    compute_losses_in_forward(trained)
    yield trained.eval()
    give_back_forward(trained)


def batch_rows(built):
    return [{name: column[row] for name, column in built.columns.items()} for row in range(len(built))]


def loss_and_gradients(model, batch):
    model.zero_grad()
    loss = token_losses(model, batch).weighted_sum / normaliser([batch])
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_every_gradient_equal_those_of_the_padded_batch(model, segments, name):
    data, variants, options = CASES[name]
    built = examples.build_examples(data, segments, split="train", variants=variants, **options)
    padded, packed = (collate(batch_rows(built)) for collate in (PaddingCollator(0), SharedPrefixCollator()))
    assert row_count(packed) == row_count(padded) == len(data)
    assert token_count(packed) <= token_count(padded)
    expected, of_padded = loss_and_gradients(model, padded)
    with shared_prefix_attention_of(model):
        loss, of_packed = loss_and_gradients(model, packed)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert of_packed.keys() == of_padded.keys()
    size = sum(float(gradient.norm()) ** 2 for gradient in of_padded.values()) ** 0.5
    for parameter, gradient in of_padded.items():
        assert float((of_packed[parameter] - gradient).norm()) < 1e-5 * size, parameter


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", [*FAMILIES, "Llama3", "Gemma", "Gemma3"])
def test_every_architecture_has_the_loss_and_gradients_of_its_padded_batch(segments, family, name):
    data, variants, options = CASES[name]
    built = examples.build_examples(data, segments, split="train", variants=variants, **options)
    padded, packed = (collate(batch_rows(built)) for collate in (PaddingCollator(0), SharedPrefixCollator()))
    model, _ = attach_adapter(
        random_model(family, vocabulary=len(segments.tokenizer)), AdapterSettings(method="hybrid", r=4)
    )
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.05)
    compute_losses_in_forward(model.eval())
    expected, of_padded = loss_and_gradients(model, padded)
    with shared_prefix_attention_of(model):
        loss, of_packed = loss_and_gradients(model, packed)
    assert loss == pytest.approx(expected, rel=1e-5)
    size = sum(float(gradient.norm()) ** 2 for gradient in of_padded.values()) ** 0.5
    assert of_packed.keys() == of_padded.keys() and len(of_packed) > 20
    for parameter_name, gradient in of_padded.items():
        assert float((of_packed[parameter_name] - gradient).norm()) < 1e-5 * size, parameter_name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)], ids=["fp16", "bf16"])
def test_half_precision_with_a_loss_scale_gives_the_padded_float32_gradient(model, segments, dtype, tolerance):
    """As on a T4: products in half precision, trained weights in float32, the loss scaled for the backward pass."""
    data, variants, options = CASES["three prompts in turn"]
    built = examples.build_examples(data, segments, split="train", variants=variants, **options)
    expected, reference = loss_and_gradients(model, PaddingCollator(0)(batch_rows(built)))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=dtype == torch.float16)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0)
    model.zero_grad()
    batch = SharedPrefixCollator()(batch_rows(built))
    with shared_prefix_attention_of(model), torch.autocast("cpu", dtype=dtype):
        loss = token_losses(model, batch).weighted_sum / normaliser([batch])
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    assert loss.item() == pytest.approx(expected, rel=tolerance)
    assert {parameter.grad.dtype for parameter in trained} == {torch.float32}
    size = sum(float(gradient.norm()) ** 2 for gradient in reference.values()) ** 0.5
    for name, parameter in model.named_parameters():
        if name in reference:
            assert float((parameter.grad - reference[name]).norm()) < tolerance * size, name


def test_each_prefix_stands_once_and_every_trained_token_keeps_its_predecessor(segments):
    data, variants, _ = CASES["three prompts in turn"]
    built = examples.build_examples(data, segments, split="train", variants=variants)
    batch = SharedPrefixCollator()(batch_rows(built))
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    prefixes = [list(segments.prefix_ids(variant)) for variant in range(3)]
    own = sum(built.lengths) - sum(len(prefixes[variant]) for variant in variants)
    assert len(ids) == own + sum(map(len, prefixes))
    pairs = [(ids[place - 1], label) for place, label in enumerate(labels) if label != IGNORED]
    expected = [
        (row["input_ids"][place - 1], label)
        for row in batch_rows(built)
        for place, label in enumerate(row["labels"])
        if label != IGNORED
    ]
    assert sorted(pairs) == sorted(expected)


def test_a_row_that_keeps_others_company_teaches_nothing(model, segments):
    built = examples.build_examples(TICKETS[:2], segments, split="train", variants=[0, 0])
    taken = TrainingRows(built.columns)
    batch = SharedPrefixCollator()([taken[~0]])
    assert (batch["labels"] == IGNORED).all()
    with shared_prefix_attention_of(model):
        losses = token_losses(model, batch)
    assert losses.negative_log_likelihood.numel() == 0 and losses.weighted_sum.requires_grad


def test_rows_of_one_prompt_stand_together_in_a_step():
    variants = [n % 3 for n in range(48)]
    sampler = EpochSampler([5 + n % 7 for n in range(48)], effective_batch=16, seed=1, variants=variants)
    plain = EpochSampler([5 + n % 7 for n in range(48)], effective_batch=16, seed=1)
    for start in range(0, 48, 16):
        step = sampler.order(0)[start : start + 16]
        assert [variants[row] for row in step] == sorted(variants[row] for row in step)
        assert set(step) == set(plain.order(0)[start : start + 16])


RUNS = {
    "lora": {},
    "hybrid": {"adapter": {"method": "hybrid"}},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "quantised": {"quantization": {"bits": 4}},
    "bfloat16": {"precision": "bf16"},
    "explicit": {"prompt": {"strategy": "explicit", "max_length": 600}},
}
ROUNDING = {"bfloat16": 2e-2, "quantised": 1e-3}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_same_curve(settings_for, name):
    changes = {**RUNS[name], "adapter": {"dropout": 0.0, **RUNS[name].get("adapter", {})}, "log_every_steps": 1}
    losses, lines = {}, {}
    for packing in ("none", "shared_prefix"):
        notes = []
        run = train(settings_for(name=packing, batch={"packing": packing}, **changes), notes=notes.append)
        assert run.read(run.plan)["packing"] == packing and not any("padded" in note for note in notes)
        lines[packing] = metric_lines(run.folder)
        losses[packing] = [line["loss"] for line in lines[packing]]
    assert losses["shared_prefix"] == pytest.approx(losses["none"], rel=ROUNDING.get(name, 2e-4))
    for ours, theirs in zip(lines["shared_prefix"], lines["none"], strict=True):
        if ours["split"] == "train":
            assert theirs["computed_tokens_share"] == 1 and 0 < theirs["padding_share"] < 0.5
            assert ours["computed_tokens_share"] < 1 - theirs["padding_share"] and ours["padding_share"] == 0
        elif name not in ROUNDING:
            for figure in ("value_accuracy/category", "value_accuracy/priority", "field_token_accuracy/summary"):
                assert ours[figure] == theirs[figure]


def test_a_model_that_cannot_be_packed_is_trained_padded_and_says_so(settings_for, monkeypatch):
    monkeypatch.setattr(check, "why_not_packed", lambda model: "TinyModel carries a state along")
    notes = []
    run = train(settings_for(max_steps=2), notes=notes.append)
    assert notes[0] == (
        "Rows are padded, not packed: TinyModel carries a state along. The result is the same, only slower."
    )
    assert run.read(run.plan)["packing"] == "none"
