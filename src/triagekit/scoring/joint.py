"""Several runs over one archive in one pass: a shard is read once, and scored with one adapter after the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from triagekit.data.parquet_reader import KeptParquet
from triagekit.errors import TriageError
from triagekit.files.remote import any_path
from triagekit.scoring.care import Care, Watch
from triagekit.scoring.plan import PlannedShard, ShardRows, as_planned, read_rows
from triagekit.scoring.process_memory import prepare_for_tickets
from triagekit.scoring.worker import ScoreWorker, WorkerOrder

if TYPE_CHECKING:
    from triagekit.scoring.parts import PartSummary


@dataclass(frozen=True)
class JointShard:
    """The same tickets for every run: its own view of the shard, by the run's number. A run whose part stands is absent."""

    index: int
    span: str
    of_run: dict[int, PlannedShard]


@dataclass(frozen=True)
class JointSummary:
    """The parts that came out of a joint shard, by the run's number."""

    of_run: dict[int, PartSummary]

    @property
    def rows(self) -> int:
        """Of all parts."""
        return sum(summary.rows for summary in self.of_run.values())

    @property
    def errors(self) -> int:
        """Rows with verdict `error`."""
        return sum(summary.verdicts.get("error", 0) for summary in self.of_run.values())


class JointScoreWorker:
    """The work of one worker process: every run's adapter loaded once, shards scored and written one after the other.

    Made into a Ray actor by the pool; as a plain object it does the same in the calling process. With several runs on one
    base, the weights that no adapter has changed are in memory once.
    """

    def __init__(self, orders: Sequence[WorkerOrder]) -> None:
        self._orders = orders
        self._workers = [ScoreWorker(order) for order in orders]
        self._kept = KeptParquet()
        self._opened = False

    def open(self) -> str | None:
        """Load the adapters. The text of the refusal where one cannot be used (errors do not travel well as objects)."""
        from triagekit.modeling.packed_linear import pack_linears
        from triagekit.modeling.shared_base import share_frozen

        opened = []
        for worker in self._workers:
            if refusal := worker.open():
                return refusal
            opened.append(worker.adapter)
            # At once: otherwise there would be as many bases in memory as runs, if only until the last is loaded.
            share_frozen(opened)
        pack_linears([adapter.model for adapter in opened])
        prepare_for_tickets()
        self._opened = True
        return None

    def process_id(self) -> int:
        """Of the process that this worker lives in."""
        return os.getpid()

    def score_planned(self, joint: JointShard, care: Care = Care()) -> JointSummary:  # noqa: B008
        """Read a shard's tickets where they lie, score them with the runs that miss them, and write the parts.

        Raises TriageError as ScoreWorker.score does, and where the archive is not what it was.
        """
        if not self._opened and (refusal := self.open()):
            raise TriageError(refusal)
        summaries = {}
        found: ShardRows | None = None
        for number, planned in joint.of_run.items():
            order = self._orders[number]
            assert order.reading is not None
            archive = any_path(order.archive)
            found = found or read_rows(archive, order.reading, planned, self._kept)
            shard = as_planned(archive, found, planned, order.job)
            left_out = care.left_out.get(number, frozenset())
            watch = Watch.of(order.out, joint.index, left_out) if care.watched else None
            summaries[number] = self._workers[number].score(shard, care.rows_at_once, watch)
        return JointSummary(summaries)
