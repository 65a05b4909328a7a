"""Which rows each process computes in each optimizer step: together exactly those of a run of one process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from triagekit.training.collator import IGNORED
from triagekit.training.sampler import EpochSampler


def micro_batches(rows: Sequence[int], micro: int, rank: int, ranks: int) -> list[list[int]]:
    """The micro-batches of process `rank` for one optimizer step over `rows`.

    Rows are cut into pieces of at most `micro`, equally many for every process and as even as they can be, and dealt
    out in turn, so that rows of like length are computed at the same time. No row is left out or doubled. Where there
    are fewer rows than pieces, a piece is one row's index inverted (`~row`): to be computed, but not learnt from, since
    all processes must take part in every exchange of gradients.
    """
    rounds = -(-len(rows) // (micro * ranks))
    pieces = rounds * ranks
    small, larger = divmod(len(rows), pieces)
    starts = [0]
    for piece in range(pieces):
        starts.append(starts[-1] + small + (piece < larger))
    cut = [list(rows[start:end]) or [~rows[0]] for start, end in itertools.pairwise(starts)]
    return cut[rank::ranks]


class StepBatches:
    """Micro-batches of one process over one epoch: a batch sampler for a DataLoader."""

    def __init__(self, sampler: EpochSampler, effective: int, micro: int, rank: int = 0, ranks: int = 1) -> None:
        self._sampler = sampler
        self._effective = effective
        self._micro = micro
        self._rank = rank
        self._ranks = ranks
        self.batch_size = micro
        self.drop_last = False

    def __len__(self) -> int:
        share = self._micro * self._ranks
        whole, rest = divmod(len(self._sampler), self._effective)
        return whole * (self._effective // share) + -(-rest // share)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self._sampler)
        for start in range(0, len(order), self._effective):
            yield from micro_batches(order[start : start + self._effective], self._micro, self._rank, self._ranks)


class TrainingRows(Dataset[dict[str, Any]]):
    """Tokenised rows by index; `~index` gives the row with nothing to learn from."""

    def __init__(self, columns: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns["input_ids"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = {name: column[index if index >= 0 else ~index] for name, column in self._columns.items()}
        if index >= 0:
            return row
        row["labels"] = [IGNORED] * len(row["labels"])
        if "weights" in row:
            row["weights"] = [0.0] * len(row["weights"])
        return row
