"""With a vocabulary of 150,000 the logits do not set the peak, in training and in validation: measured, not reckoned."""

from __future__ import annotations

import pytest
import torch
from allocator import peak_of, random_model

from triagekit.hardware.activations import LOGIT_BYTES, LOGITS_AT_ONCE
from triagekit.modeling.adapters import attach_adapter
from triagekit.modeling.settings import AdapterSettings
from triagekit.training import loss
from triagekit.training.loss import compute_losses_in_forward, give_back_forward, token_losses

VOCABULARY = 151_936
ROWS, LENGTH = 10, 201
TOKENS = ROWS * (LENGTH - 1)
ALL_TOGETHER = TOKENS * VOCABULARY * LOGIT_BYTES
"""3.6 GB."""

HIDDEN = 16
SMALL = {"hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 4}
OTHERS = 16 * 2**20
"""Of one layer of the model, more than it needs."""


def prepared(method):
    """A model that is all vocabulary, and a batch in which every token is trained."""
    torch.manual_seed(0)
    model = random_model("qwen2", torch.float32, vocab_size=VOCABULARY, **SMALL)
    model, _ = attach_adapter(model, AdapterSettings(method=method, r=4))
    compute_losses_in_forward(model.train())
    for parameter in model.parameters():
        # Gradients that stay are none of a step's peak.
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def step(model, batch):
    losses = token_losses(model, batch)
    assert losses.correct.numel() == TOKENS
    (losses.weighted_sum / TOKENS).backward()


@torch.no_grad()
def validate(model, batch):
    assert float(token_losses(model, batch).weighted_sum) > 0


@pytest.mark.parametrize("method", ["lora", "hybrid", "full"])
@pytest.mark.parametrize("work", [step, validate])
def test_logits_take_no_more_than_their_share(method, work):
    model, batch = prepared(method)
    peak = peak_of(lambda: work(model, batch))
    give_back_forward(model)
    # The gradient of a trained head is collected in float32 before it is added to what is there.
    gradient = 4 * VOCABULARY * HIDDEN if method != "lora" and work is step else 0
    # Tied embeddings have a gradient of their own beside the head's.
    gradient *= 2 if method == "full" else 1
    assert LOGITS_AT_ONCE / 2 < peak < LOGITS_AT_ONCE + gradient + OTHERS < ALL_TOGETHER / 10


@pytest.mark.parametrize("work", [step, validate])
def test_more_at_once_would_be_seen(monkeypatch, work):
    model, batch = prepared("lora")
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 4 * LOGITS_AT_ONCE)
    peak = peak_of(lambda: work(model, batch))
    give_back_forward(model)
    assert peak > 2 * LOGITS_AT_ONCE + OTHERS
