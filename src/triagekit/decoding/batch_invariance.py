"""The same numbers for a row in whatever company it is computed, so that no batch, worker or restart shows in the results.

A matrix product takes other roads through its sums for few rows than for many: the same row gets other last digits in a batch
of three than in one of a hundred. What was seen of MKL and oneDNN (`benchmarks/batch_invariance.py`): with rows in fours every
row's numbers are its own. So the decoder computes a few rows twice rather than another number of them, and sums of unlike
width in float64, where the order does not reach the digits that are kept. Batch invariance: H. He, "Defeating Nondeterminism in
LLM Inference", Thinking Machines 2025. Without compiled loops (`triagekit.decoding.kernels`), and on GPUs, attention still
takes its own roads.

Larger numbers of rows come in larger steps, so that the products, which take their rows in blocks (`modeling.row_blocks`), are
made of few numbers of them.
"""

from __future__ import annotations

import numpy as np
import torch

from triagekit.decoding.transfer import on_device

STEPS = ((64, 4), (128, 8), (None, 16))
"""Up to so many rows of a matrix product, they come in multiples of this."""
COLUMNS = 16
"""Columns too: cut among threads, others have other numbers."""


def in_company(rows: int) -> np.ndarray:
    """Indices of `rows` rows, the last one repeated up to the next number of rows that a product is made of."""
    step = next(step for limit, step in STEPS if limit is None or rows <= limit)
    return np.minimum(np.arange(-(-rows // step) * step), rows - 1)


def with_company(hidden: torch.Tensor) -> torch.Tensor:
    """`hidden` [rows, H], the last row repeated as `in_company` does."""
    order = in_company(len(hidden))
    return hidden if len(order) == len(hidden) else hidden[on_device(order, hidden.device)]


def column_padded(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [N, …] with zeros up to a multiple of sixteen along N."""
    missing = -len(weight) % COLUMNS
    return torch.cat([weight, weight.new_zeros(missing, *weight.shape[1:])]) if missing else weight


def log_share(best: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Natural logarithm of the share of the logits `best` [rows] among `logits` [rows, N], whatever lies at minus infinity."""
    return (best.double() - logits.double().logsumexp(dim=-1)).float()
