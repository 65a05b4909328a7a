"""Shards that went wrong: how often, what is tried next, and when to give up.

A shard that fails in a living worker (a read that broke off, a GPU that answers nobody) is given to another one, a while later.
One at which workers die is given again in smaller batches, then one ticket at a time with a note of each before it is begun. A
ticket at which the worker died twice is written as an error, and the rest of its shard is scored.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.errors import TriageError

if TYPE_CHECKING:
    from triagekit.scoring.joint import JointShard

SHARD_ATTEMPTS = 3
"""Deaths at a shard before its tickets are watched; and further tries for one that fails in living workers."""
RETRY_SECONDS = 5.0
"""Before a shard that has failed is given again; twice as long after each further failure."""
MOST_LEFT_OUT = 8
"""Tickets of one shard that may end their worker. With more, it is not the tickets."""


@dataclass(frozen=True)
class Care:
    """What a worker is told of a shard that went wrong before. `rows_at_once`: given to the model together at most."""

    rows_at_once: int | None = None
    watched: bool = False
    """One ticket after the other, each noted before it is begun."""
    left_out: dict[int, frozenset[int]] = field(default_factory=dict)
    """By the run's number: places of tickets that end their worker."""


@dataclass(frozen=True)
class Watch:
    """A worker's note of the ticket it is at, in a file that outlives it."""

    path: Path
    left_out: frozenset[int]

    @staticmethod
    def of(out: str, shard: int, left_out: frozenset[int] = frozenset()) -> Watch:
        """Of one run's part of a shard. A leftover is swept away by the next start of the job."""
        return Watch(Path(out) / f".{shard:05d}.at.tmp", left_out)

    def begin(self, place: int) -> None:
        """The ticket at this place is next. It need not reach the disk: a worker may die, not the machine."""
        self.path.write_text(str(place), encoding="utf-8")

    def end(self) -> None:
        """All are done."""
        self.path.unlink(missing_ok=True)

    def read(self) -> int | None:
        """The place that was noted last; None where none is."""
        try:
            return int(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


@dataclass
class _Trouble:
    """What one shard has cost."""

    deaths: int = 0
    unexplained: int = 0
    """Deaths while it was watched, at no ticket."""
    failures: int = 0
    not_before: float = 0.0
    tried: list[Any] = field(default_factory=list)
    rows_at_once: int | None = None
    watched: bool = False
    suspects: dict[int, int] = field(default_factory=dict)
    left_out: dict[int, frozenset[int]] = field(default_factory=dict)


class CarefulShards:
    """The driver's account of the shards that went wrong."""

    def __init__(self, batch_size: int, outs: Sequence[str]) -> None:
        """`outs`: the runs' folders."""
        self._batch_size = batch_size
        self._outs = outs
        self._troubles: defaultdict[int, _Trouble] = defaultdict(_Trouble)

    def care(self, shard: JointShard) -> Care:
        """How it is to be scored now."""
        trouble = self._troubles[shard.index]
        return Care(trouble.rows_at_once, trouble.watched, dict(trouble.left_out))

    def is_due(self, shard: JointShard) -> bool:
        """Whether it has waited long enough since it failed."""
        return time.monotonic() >= self._troubles[shard.index].not_before

    def has_failed_in(self, shard: JointShard, actor: Any) -> bool:
        """Whether this worker is one that it failed in."""
        return actor in self._troubles[shard.index].tried

    def failed(self, shard: JointShard, actor: Any, cause: object, retries: int) -> None:
        """It raised an error in a living worker. Raises TriageError after as many retries."""
        trouble = self._troubles[shard.index]
        trouble.failures += 1
        trouble.tried.append(actor)
        trouble.not_before = time.monotonic() + RETRY_SECONDS * 2 ** (trouble.failures - 1)
        if trouble.failures > retries:
            raise TriageError(
                f"Shard {shard.index} could not be scored, {trouble.failures} times: {str(cause).rstrip('.')}. Finished parts "
                "are kept; once the cause is mended, the same command goes on."
            )

    def died(self, shard: JointShard, told: str) -> bool:
        """It ended its worker, of which Ray says `told`. Whether something was learnt of it. Raises TriageError where
        there is no use in trying on."""
        trouble = self._troubles[shard.index]
        trouble.deaths += 1
        if trouble.watched:
            return self._died_watched(shard, trouble)
        if trouble.deaths >= SHARD_ATTEMPTS:
            trouble.watched = True
        # One death may be anybody's; a second at the same shard, or what Ray says of it, points at the memory.
        elif trouble.deaths > 1 or "memory" in told.casefold():
            trouble.rows_at_once = max(1, self._batch_size >> trouble.deaths)
        return False

    def _died_watched(self, shard: JointShard, trouble: _Trouble) -> bool:
        notes = ((number, Watch.of(self._outs[number], shard.index)) for number in shard.of_run)
        found = [(number, watch, place) for number, watch in notes if (place := watch.read()) is not None]
        for number, watch, place in found:
            watch.end()
            # Whoever kills workers at random kills one at the same ticket twice only by a rare chance.
            if trouble.suspects.get(number) == place:
                trouble.left_out[number] = trouble.left_out.get(number, frozenset()) | {place}
                del trouble.suspects[number]
            else:
                trouble.suspects[number] = place
        trouble.unexplained += not found
        if trouble.unexplained >= SHARD_ATTEMPTS or any(
            len(places) > MOST_LEFT_OUT for places in trouble.left_out.values()
        ):
            raise TriageError(
                f"Shard {shard.index} (tickets {shard.span}) ended {trouble.deaths} workers, also one ticket after the other. "
                "If memory ran out, use fewer workers and run the same command again; finished parts are kept."
            )
        return bool(found)
