"""The same numbers for a row in whatever company it is computed, so that no batch, worker or restart shows in the results.

A matrix product takes other roads through its sums for few rows than for many: the same row gets other last digits in a batch
of three than in one of a hundred. What was seen of MKL and oneDNN (`benchmarks/batch_invariance.py`): with rows in fours every
row's numbers are its own. So the decoder computes a few rows twice rather than another number of them, and sums of unlike
width in float64, where the order does not reach the digits that are kept. Batch invariance: H. He, "Defeating Nondeterminism in
LLM Inference", Thinking Machines 2025. Without compiled loops (`triagekit.decoding.kernels`), and on GPUs, attention still
takes its own roads.
"""

from __future__ import annotations

import torch

ROWS = 4
"""Rows of a matrix product come in multiples of this."""
COLUMNS = 16
"""Columns too: cut among threads, others have other numbers."""


def in_fours(rows: int, device: torch.device) -> torch.Tensor:
    """Indices of `rows` rows, the last one repeated up to a multiple of four."""
    return torch.arange(-(-rows // ROWS) * ROWS, device=device).clamp_(max=rows - 1)


def with_company(hidden: torch.Tensor) -> torch.Tensor:
    """`hidden` [rows, H], the last row repeated up to a multiple of four."""
    return hidden if len(hidden) % ROWS == 0 else hidden[in_fours(len(hidden), hidden.device)]


def column_padded(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [N, …] with zeros up to a multiple of sixteen along N."""
    missing = -len(weight) % COLUMNS
    return torch.cat([weight, weight.new_zeros(missing, *weight.shape[1:])]) if missing else weight


def log_share(best: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Natural logarithm of the share of the logits `best` [rows] among `logits` [rows, N], whatever lies at minus infinity."""
    return (best.double() - logits.double().logsumexp(dim=-1)).float()
