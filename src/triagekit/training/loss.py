"""The loss: cross entropy of record and end-of-turn tokens, with only their positions projected to the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from triagekit.modeling.forward import causal_model, hidden_states, project_to_logits
from triagekit.training.collator import IGNORED, Batch, model_inputs


@dataclass(frozen=True)
class TokenLosses:
    """Of the trained tokens of one batch, all of shape (trained tokens,): negative log-likelihood in nats (float32,
    with gradient), whether the likeliest token is the right one, and the class weight."""

    negative_log_likelihood: torch.Tensor
    correct: torch.Tensor
    weights: torch.Tensor | None

    @property
    def weighted_sum(self) -> torch.Tensor:
        """Numerator of the loss, a scalar."""
        if self.weights is None:
            return self.negative_log_likelihood.sum()
        return (self.negative_log_likelihood * self.weights).sum()


def take_selected_logits(model: nn.Module) -> None:
    """Teach the model's own forward a `selected` argument: a (rows, tokens − 1) mask of the positions whose logits
    (selected, vocabulary) are wanted. Without it the forward is the model's own.

    The forward, and not a call around it, because wrappers (mixed precision, data-parallel gradient averaging) act on
    the forward only.
    """
    causal = causal_model(model)
    own_forward = type(causal).forward

    def forward(*arguments: Any, selected: torch.Tensor | None = None, **options: Any) -> Any:
        if selected is None:
            return own_forward(causal, *arguments, **options)
        hidden, _ = hidden_states(causal, **options)
        return project_to_logits(causal, hidden[:, :-1][selected])

    causal.forward = forward


def give_back_forward(model: nn.Module) -> None:
    """Undo take_selected_logits."""
    vars(causal_model(model)).pop("forward", None)


def token_losses(model: nn.Module, batch: Batch) -> TokenLosses:
    """Losses of every trained token of a collated batch; `model` has been through take_selected_logits."""
    targets = batch["labels"][:, 1:]
    selected = targets != IGNORED
    logits = model(**model_inputs(batch), selected=selected)
    targets = targets[selected]
    losses = functional.cross_entropy(logits.float(), targets, reduction="none")
    correct = logits.detach().argmax(dim=-1) == targets
    weights = batch["weights"][:, 1:][selected] if "weights" in batch else None
    return TokenLosses(losses, correct, weights)


def normaliser(batches: list[Batch]) -> torch.Tensor:
    """Denominator of one optimizer step: the trained tokens (or their weights) of all its micro-batches, a scalar."""
    parts = [
        batch["weights"][:, 1:].sum() if "weights" in batch else (batch["labels"][:, 1:] != IGNORED).sum()
        for batch in batches
    ]
    return torch.stack(parts).sum()
