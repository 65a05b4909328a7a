"""The validation rows, measured in one forward pass: loss, token accuracy, and accuracy by field."""

from __future__ import annotations

from collections.abc import Callable

import torch

from triagekit.training.collator import Batch
from triagekit.training.field_metrics import FieldMetrics
from triagekit.training.loss import TokenLosses
from triagekit.training.process_group import ProcessGroup


@torch.no_grad()
def validation_figures(
    batches: list[Batch],
    losses_of: Callable[[Batch], TokenLosses],
    group: ProcessGroup,
    fields: FieldMetrics | None,
) -> dict[str, float]:
    """loss (mean negative log-likelihood, unweighted, nats a token) and token_accuracy over all trained tokens of
    `batches`, and the figures of `fields`. The processes share the batches; collective. No logits are kept."""
    ranks = group.ranks
    own = batches[ranks.rank :: ranks.size]
    # Sharded weights are brought together in every forward, so all processes need the same number of them.
    spare = -(-len(batches) // ranks.size) - len(own)
    sums = torch.zeros(3 + (fields.size if fields else 0), dtype=torch.float64)
    for number, batch in enumerate([*own, *batches[:1] * spare]):
        losses = losses_of(batch)
        if number >= len(own):
            continue
        likelihood, correct = losses.negative_log_likelihood, losses.correct.cpu()
        sums[:3] += torch.tensor(
            [likelihood.double().sum().item(), correct.sum().item(), likelihood.numel()], dtype=torch.float64
        )
        if fields:
            sums[3:] += fields.counts(batch, correct)
    total, right, count, *by_field = group.reduce(sums.tolist())
    return {"loss": total / count, "token_accuracy": right / count, **(fields.figures(by_field) if fields else {})}
