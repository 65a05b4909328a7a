"""Focal and smoothed value tokens: the formulas by hand, only where they belong, and in a run."""

from __future__ import annotations

import pytest
import torch
from training_helpers import SCHEMA, rows

from triagekit.data.rows import Row
from triagekit.modeling.base import load_base, load_tokenizer
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.settings import PromptSettings
from triagekit.modeling.template import PromptTemplate
from triagekit.training import examples, loss
from triagekit.training.collator import IGNORED, PaddingCollator
from triagekit.training.label_choices import label_field_numbers
from triagekit.training.loss import compute_losses_in_forward, give_back_forward, token_losses
from triagekit.training.objective import Objective
from triagekit.training.packing import SharedPrefixCollator
from triagekit.training.settings import LossSettings
from triagekit.training.train import train

CHOICES = [{"focal_gamma": 2.0}, {"label_smoothing": 0.1}, {"focal_gamma": 1.5, "label_smoothing": 0.2}]


@pytest.fixture(scope="module")
def built(tiny_model_folder):
    tokenizer = load_tokenizer(str(tiny_model_folder))
    template = PromptTemplate(tokenizer, SCHEMA, PromptSettings(strategy="implicit", max_length=256))
    data = [Row.from_json(row) for row in rows(6, 1)]
    weights = {"category": {"Network": 3.0}}
    return examples.build_examples(
        data, SegmentTokenizer(tokenizer, template), split="train", variants=[0] * 6, weights=weights, with_fields=True
    )


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return load_base(str(tiny_model_folder), "fp32", device="cpu")


def all_rows(built):
    return [{name: column[row] for name, column in built.columns.items()} for row in range(len(built))]


def computed(model, batch, choice):
    objective = Objective(LossSettings(**choice), label_field_numbers(SCHEMA))
    compute_losses_in_forward(model, objective.over_vocabulary)
    try:
        return objective.weighted_sum(token_losses(model, batch))
    finally:
        give_back_forward(model)


def by_hand(model, batch, choice):
    """Over full logits, token by token."""
    smoothing, gamma = choice.get("label_smoothing", 0.0), choice.get("focal_gamma", 0.0)
    logs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double().log_softmax(-1)
    total = 0.0
    for row, position in (batch["labels"] != IGNORED).nonzero().tolist():
        log = logs[row, position - 1]
        token = batch["labels"][row, position]
        each = -log[token]
        # Field 0 is the free-text summary.
        if batch["fields"][row, position] in (1, 2):
            each = (1 - smoothing) * each + smoothing * -log.mean()
            each = each * (1 - log[token].exp()) ** gamma
        total = total + each * batch["weights"][row, position]
    return total


@pytest.mark.parametrize("choice", [{}, *CHOICES])
def test_the_formula(model, built, choice):
    batch = PaddingCollator(0)(all_rows(built))
    assert computed(model, batch, choice).item() == pytest.approx(by_hand(model, batch, choice).item(), rel=1e-5)
    assert (batch["fields"] == 1).any() and (batch["fields"] == 0).any(), "labels and free text are both there"


@pytest.mark.parametrize("choice", CHOICES)
def test_the_gradient_is_that_of_the_formula(model, built, choice):
    batch = PaddingCollator(0)(all_rows(built))
    weight = model.get_input_embeddings().weight
    ours, theirs = (torch.autograd.grad(f(model, batch, choice), weight)[0] for f in (computed, by_hand))
    assert torch.linalg.norm(ours - theirs) < 1e-4 * torch.linalg.norm(theirs)


@pytest.mark.parametrize("choice", CHOICES)
def test_pieces_of_logits_change_nothing(model, built, choice, monkeypatch):
    batch = PaddingCollator(0)(all_rows(built))
    for parameter in model.parameters():
        parameter.requires_grad_(parameter is model.model.layers[0].mlp.up_proj.weight)
    whole = computed(model, batch, choice)
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 5 * model.config.vocab_size * loss.LOGIT_BYTES)
    pieces = computed(model, batch, choice)
    weight = model.model.layers[0].mlp.up_proj.weight
    gradients = [torch.autograd.grad(value, weight)[0] for value in (whole, pieces)]
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    assert pieces.item() == pytest.approx(whole.item(), rel=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_a_certain_token_has_a_finite_gradient():
    likelihood = torch.zeros(2, requires_grad=True)
    losses = loss.TokenLosses(likelihood, torch.ones(2, dtype=torch.bool), None, torch.tensor([1, 1]), None)
    Objective(LossSettings(focal_gamma=0.5), [1]).weighted_sum(losses).backward()
    assert torch.isfinite(likelihood.grad).all()


def test_packed_rows_carry_their_fields(built):
    rows_of = all_rows(built)
    packed, padded = SharedPrefixCollator()(rows_of), PaddingCollator(0)(rows_of)

    def told(batch):
        chosen = batch["labels"] != IGNORED
        return sorted(zip(batch["labels"][chosen].tolist(), batch["fields"][chosen].tolist(), strict=True))

    assert told(packed) == told(padded)


def test_a_run_with_it_differs_and_its_validation_loss_stays_plain(settings_for):
    small = {"epochs": 0.2, "adapter": {"dropout": 0.0}, "evaluation": {"every_share": 1.0}}
    runs = {}
    for name, choice in (("plain", {}), ("both", {"focal_gamma": 2.0, "label_smoothing": 0.1})):
        run = train(settings_for(name=name, loss=choice, **small))
        runs[name] = {line["split"]: line["loss"] for line in run.metric_lines()}
        assert run.read(run.plan)["conditions_fingerprint"]
    assert abs(runs["both"]["train"] - runs["plain"]["train"]) > 1e-3
    # One or two steps apart: a plain loss of nearly the same weights, not a loss of another kind.
    assert runs["both"]["val"] == pytest.approx(runs["plain"]["val"], rel=0.05)
