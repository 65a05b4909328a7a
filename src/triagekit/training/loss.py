"""The loss: cross entropy of record and end-of-turn tokens, with only their positions projected to the vocabulary, and
never more of them at once than a fixed amount of memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from triagekit.hardware.activations import LOGIT_BYTES, LOGITS_AT_ONCE
from triagekit.modeling.forward import causal_model, final_logits, hidden_states, project_to_logits
from triagekit.training.collator import IGNORED, Batch, model_inputs
from triagekit.training.head_loss import HeadLosses


@dataclass(frozen=True)
class TokenLosses:
    """Of the trained tokens of one batch, all of shape (trained tokens,): negative log-likelihood in nats (float32,
    with gradient), whether the likeliest token is the right one, the mean negative log-likelihood over the whole
    vocabulary (float32, with gradient, where label smoothing asks for it), the schema field (NO_FIELD outside of
    values) and the class weight."""

    negative_log_likelihood: torch.Tensor
    correct: torch.Tensor
    of_vocabulary: torch.Tensor | None
    fields: torch.Tensor | None
    weights: torch.Tensor | None

    def sum_of(self, each: torch.Tensor) -> torch.Tensor:
        """The class-weighted sum of a figure of each token, a scalar."""
        return each.sum() if self.weights is None else (each * self.weights).sum()

    @property
    def weighted_sum(self) -> torch.Tensor:
        """Numerator of plain cross entropy, a scalar."""
        return self.sum_of(self.negative_log_likelihood)


def compute_losses_in_forward(model: nn.Module, over_vocabulary: bool = False) -> None:
    """Teach the model's own forward two arguments: `selected`, a (rows, tokens − 1) mask of the positions whose next token
    is trained, and `targets`, those tokens. It then gives what `projected_losses` does. Without them it is the model's own.

    The forward, and not a call around it, because wrappers (mixed precision, data-parallel gradient averaging) act on
    the forward only.
    """
    causal = causal_model(model)
    own_forward = type(causal).forward

    def forward(
        *arguments: Any, selected: torch.Tensor | None = None, targets: torch.Tensor | None = None, **options: Any
    ) -> Any:
        if selected is None or targets is None:
            return own_forward(causal, *arguments, **options)
        hidden, _ = hidden_states(causal, **options)
        return projected_losses(causal, hidden[:, :-1][selected], targets, over_vocabulary)

    causal.forward = forward


def give_back_forward(model: nn.Module) -> None:
    """Undo compute_losses_in_forward."""
    vars(causal_model(model)).pop("forward", None)


def projected_losses(
    model: nn.Module, hidden: torch.Tensor, targets: torch.Tensor, over_vocabulary: bool = False
) -> tuple[torch.Tensor, ...]:
    """Negative log-likelihood (float32) and whether the likeliest token is right, both (n,), of hidden states (n, H);
    with `over_vocabulary` also the mean negative log-likelihood of all tokens of the vocabulary (n,).

    What does not fit into LOGITS_AT_ONCE is projected piece by piece, and each piece once more in the backward pass
    instead of being kept (Chen et al. 2016, arXiv 1604.06174): with a vocabulary of 150,000 the logits would be the
    largest thing in memory. All pieces are one call of the head: where ZeRO-3 has spread its weight, the weight is brought
    together once in each pass, however many pieces a process has.
    """
    at_once = tokens_at_once(model)
    if len(hidden) <= at_once:
        return _of_logits(project_to_logits(model, hidden), targets, over_vocabulary)
    linear = _linear_head(model)
    own_forward = linear.forward

    def of_logits(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return _of_logits(final_logits(model, logits), wanted, over_vocabulary)

    def of_states(states: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return of_logits(own_forward(states), wanted)

    def in_pieces(states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if states.requires_grad and isinstance(linear, nn.Linear) and linear.weight.requires_grad:
            pieces: Any = HeadLosses.apply
            losses: tuple[torch.Tensor, ...] = pieces(states, linear.weight, linear.bias, targets, of_logits, at_once)
            return losses
        found = [
            checkpoint(of_states, *piece, use_reentrant=False)
            for piece in zip(torch.split(states, at_once), torch.split(targets, at_once), strict=True)
        ]
        return tuple(torch.cat(part) for part in zip(*found, strict=True))

    with _forward_of(linear, in_pieces):
        found: tuple[torch.Tensor, ...] = causal_model(model).get_output_embeddings()(hidden)
    return found


def tokens_at_once(model: nn.Module) -> int:
    """How many positions are projected to the vocabulary together."""
    vocabulary = int(causal_model(model).config.get_text_config().vocab_size)
    return max(1, LOGITS_AT_ONCE // (vocabulary * LOGIT_BYTES))


def _linear_head(model: nn.Module) -> Any:
    """The head's linear layer, behind PEFT's wrapper of a head that is trained as a whole."""
    head: Any = causal_model(model).get_output_embeddings()
    copies = getattr(head, "modules_to_save", None)
    return head if copies is None else copies["default"]


@contextmanager
def _forward_of(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`module` computes `forward` in here; whatever hangs on calls of it, as ZeRO-3 does, takes place around that."""
    before = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = before


def _of_logits(logits: torch.Tensor, targets: torch.Tensor, over_vocabulary: bool) -> tuple[torch.Tensor, ...]:
    full = logits.float()
    losses = functional.cross_entropy(full, targets, reduction="none")
    correct = logits.detach().argmax(dim=-1) == targets
    if not over_vocabulary:
        return losses, correct
    # −mean log p = logsumexp − mean logit, and logsumexp is the target's own logit and its loss.
    return losses, correct, losses + full.gather(-1, targets[:, None])[:, 0] - full.mean(dim=-1)


def token_losses(model: nn.Module, batch: Batch) -> TokenLosses:
    """Losses of every trained token of a collated batch; `model` has been through compute_losses_in_forward."""
    targets = batch["labels"][:, 1:]
    selected = targets != IGNORED
    losses, correct, *over_vocabulary = model(**model_inputs(batch), selected=selected, targets=targets[selected])
    weights = batch["weights"][:, 1:][selected] if "weights" in batch else None
    fields = batch["fields"][:, 1:][selected] if "fields" in batch else None
    return TokenLosses(losses, correct, over_vocabulary[0] if over_vocabulary else None, fields, weights)


def normaliser(batches: list[Batch]) -> torch.Tensor:
    """Denominator of one optimizer step: the trained tokens (or their weights) of all its micro-batches, a scalar."""
    parts = [
        batch["weights"][:, 1:].sum() if "weights" in batch else (batch["labels"][:, 1:] != IGNORED).sum()
        for batch in batches
    ]
    return torch.stack(parts).sum()
