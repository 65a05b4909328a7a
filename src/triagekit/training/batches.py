"""Which rows each process computes in each optimizer step: together exactly those of a run of one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from triagekit.training.collator import IGNORED
from triagekit.training.sampler import EpochSampler


@dataclass(frozen=True)
class RowCosts:
    """Tokens that computing a row takes, one entry a row: `own` ones, and those of the prefix that it shares with the rows
    of its `variant` in one micro-batch."""

    own: Sequence[int]
    prefix: Sequence[int]
    variant: Sequence[int]


def micro_batches(
    rows: Sequence[int], micro: int, rank: int, ranks: int, costs: RowCosts | None = None
) -> list[list[int]]:
    """The micro-batches of process `rank` for one optimizer step over `rows`.

    Rows are cut into pieces of at most `micro`, equally many for every process and as even in rows as they can be; neighbours
    are computed at the same time. Among the processes they are dealt so that tokens are even too, over the whole step
    (longest first, to whoever has least; Graham 1969, doi 10.1137/0117039), since all wait for the slowest. No row is left
    out or doubled. Where there are fewer rows than pieces, a piece is one row's index inverted (`~row`): to be computed,
    but not learnt from, since all processes must take part in every exchange of gradients.
    """
    rounds = -(-len(rows) // (micro * ranks))
    small, larger = divmod(len(rows), rounds * ranks)
    sizes = [small + (piece < larger) for piece in range(rounds * ranks)]
    totals, own, start = [0] * ranks, list[list[int]](), 0
    for turn in range(rounds):
        room = sizes[turn * ranks : (turn + 1) * ranks]
        chunk = rows[start : start + sum(room)]
        start += len(chunk)
        own.append(_dealt(chunk, room, totals, costs)[rank] or [~rows[0]])
    return own


def _dealt(rows: Sequence[int], room: Sequence[int], totals: list[int], costs: RowCosts | None) -> list[list[int]]:
    """One piece a process, in the rows' order; adds what they cost to `totals`."""
    ranks = len(room)
    # Where pieces are not equally large, the larger ones go to those who have least so far.
    order = sorted(range(ranks), key=lambda rank: totals[rank])
    free = dict(zip(order, sorted(room, reverse=True), strict=True))
    pieces: list[list[int]] = [[] for _ in range(ranks)]
    shown: list[set[int]] = [set() for _ in range(ranks)]

    def cost(rank: int, row: int) -> int:
        if costs is None:
            return 1
        return costs.own[row] + (0 if costs.variant[row] in shown[rank] else costs.prefix[row])

    for row in sorted(rows, key=lambda row: -costs.own[row] if costs else 0):
        taker = min((rank for rank in range(ranks) if free[rank]), key=lambda rank: totals[rank] + cost(rank, row))
        totals[taker] += cost(taker, row)
        free[taker] -= 1
        pieces[taker].append(row)
        if costs is not None:
            shown[taker].add(costs.variant[row])
    place = {row: number for number, row in enumerate(rows)}
    return [sorted(piece, key=place.__getitem__) for piece in pieces]


class StepBatches:
    """Micro-batches of one process over one epoch: a batch sampler for a DataLoader."""

    def __init__(
        self,
        sampler: EpochSampler,
        effective: int,
        micro: int,
        rank: int = 0,
        ranks: int = 1,
        costs: RowCosts | None = None,
    ) -> None:
        self._sampler = sampler
        self._effective = effective
        self._micro = micro
        self._rank = rank
        self._ranks = ranks
        self._costs = costs
        self.batch_size = micro
        self.drop_last = False

    def __len__(self) -> int:
        share = self._micro * self._ranks
        whole, rest = divmod(len(self._sampler), self._effective)
        return whole * (self._effective // share) + -(-rest // share)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self._sampler)
        for start in range(0, len(order), self._effective):
            step = order[start : start + self._effective]
            yield from micro_batches(step, self._micro, self._rank, self._ranks, self._costs)


class TrainingRows(Dataset[dict[str, Any]]):
    """Tokenised rows by index; `~index` gives the row with nothing to learn from."""

    def __init__(self, columns: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns["input_ids"])

    def costs(self, variants: Sequence[int], shared: bool) -> RowCosts:
        """What each row takes to compute: with the common prefix `shared`, or once for each row."""
        lengths = [len(ids) for ids in self._columns["input_ids"]]
        prefix: Sequence[Any] = self._columns["prefix_length"] if shared else [0] * len(lengths)
        own = [length - common for length, common in zip(lengths, prefix, strict=True)]
        return RowCosts(own, prefix, variants)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = {name: column[index if index >= 0 else ~index] for name, column in self._columns.items()}
        if index >= 0:
            return row
        row["labels"] = [IGNORED] * len(row["labels"])
        if "weights" in row:
            row["weights"] = [0.0] * len(row["weights"])
        return row
