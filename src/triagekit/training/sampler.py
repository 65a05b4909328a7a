"""Which rows an epoch shows and in which order: a pure function of seed, epoch and rows, so a run can be continued."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Sampler

if TYPE_CHECKING:
    _Base = Sampler[int]
else:
    _Base = Sampler


class EpochSampler(_Base):
    """Row indices of one epoch, in the order of training.

    Rows are drawn first (a permutation, or with replacement by `draw_weights`), then the rows of each optimizer step
    are sorted by prompt variant (`variants`, where given) and length: the micro-batches of a step share more and carry
    less padding, and since the loss is normalised over the whole step its value and gradient stay the same.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        effective_batch: int,
        seed: int,
        draw_weights: Sequence[float] | None = None,
        variants: Sequence[int] | None = None,
    ) -> None:
        self._lengths = lengths
        self.variants = variants or [0] * len(lengths)
        self._effective_batch = effective_batch
        self._seed = seed
        self._draw_weights = draw_weights
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) that the next iteration shows."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def epoch_after(self, step: int) -> float:
        """Passes over the rows after `step` optimizer steps, however many processes share a step."""
        rows = len(self._lengths)
        whole, further = divmod(step, -(-rows // self._effective_batch))
        return whole + further * self._effective_batch / rows

    def order(self, epoch: int) -> list[int]:
        """Row indices of `epoch`; always as many as there are rows."""
        # Two primes keep neighbouring seeds and epochs apart; a generator of its own leaves dropout's alone.
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch * 7919 + 1) % 2**63)
        rows = len(self._lengths)
        if self._draw_weights is None:
            drawn = torch.randperm(rows, generator=generator).tolist()
        else:
            weights = torch.tensor(self._draw_weights, dtype=torch.float64)
            drawn = torch.multinomial(weights, rows, replacement=True, generator=generator).tolist()
        order: list[int] = []
        for start in range(0, rows, self._effective_batch):
            order.extend(sorted(drawn[start : start + self._effective_batch], key=self._like))
        return order

    def _like(self, row: int) -> tuple[int, int]:
        return self.variants[row], self._lengths[row]

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self._epoch))
