"""Worker processes on Ray: a bounded number of shards under way, dead workers replaced, each shard's result once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from triagekit.errors import TriageError
from triagekit.scoring.layout import start_ray
from triagekit.scoring.parts import PartSummary
from triagekit.scoring.plan import PlannedShard
from triagekit.scoring.stopping import ScoringInterrupted, StopRequest
from triagekit.scoring.worker import ScoreWorker, WorkerOrder

UNDER_WAY_PER_WORKER = 2
"""One that is scored and one that waits, so that a worker never waits for the driver; memory stays flat."""
SHARD_ATTEMPTS = 3
LOOK_SECONDS = 1.0
"""Between two looks at whether somebody asked to stop."""


@dataclass
class _Member:
    """A worker and the shards given to it, oldest first: the first is the one it is at."""

    actor: Any
    tasks: deque[tuple[Any, PlannedShard]] = field(default_factory=deque)
    rows: int = 0
    errors: int = 0
    restarts: int = 0
    since: float = field(default_factory=time.monotonic)


class WorkerPool:
    """Scores shards on Ray actors. A context manager: the workers end with it, and Ray too if it was started by it."""

    def __init__(
        self, order: WorkerOrder, workers: int, restarts: int, address: str | None, gpus: int, cpus: int = 1
    ) -> None:
        """`gpus` and `cpus` are what Ray reserves for each worker."""
        self.lost_workers = 0
        self._cpus = cpus
        self._order = order
        self._workers = workers
        self._restarts = restarts
        self._address = address
        self._gpus = gpus
        self._members: list[_Member] = []
        self._attempts: dict[int, int] = {}
        self._started_ray = False

    def __enter__(self) -> WorkerPool:
        self._started_ray = start_ray(self._address, self._workers, self._gpus)
        self._members = [self._new_member() for _ in range(self._workers)]
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for member in self._members:
            ray.kill(member.actor)
        if self._started_ray:
            ray.shutdown()

    def open(self) -> None:
        """Load the adapter in every worker. Raises TriageError with the worker's own words where it is refused."""
        import ray

        for member in self._members:
            try:
                refusal = ray.get(member.actor.open.remote())
            except ray.exceptions.RayTaskError as error:
                raise TriageError(f"A worker could not load the adapter: {error.cause!r}") from error
            except ray.exceptions.RayActorError as error:
                raise TriageError(
                    f"A worker died while it loaded the adapter, most often for want of memory. Use fewer workers. ({error})"
                ) from error
            if refusal:
                raise TriageError(refusal)
            member.since = time.monotonic()

    def table(self) -> list[dict[str, Any]]:
        """A row a worker: shard it is at, rows and errors so far, rows a second, how often it was replaced."""
        now = time.monotonic()
        return [
            {
                "worker": number,
                "shard": member.tasks[0][1].index if member.tasks else None,
                "rows": member.rows,
                "rows_per_second": round(member.rows / max(1e-9, now - member.since), 3),
                "errors": member.errors,
                "restarts": member.restarts,
            }
            for number, member in enumerate(self._members)
        ]

    def score(
        self, shards: Iterable[PlannedShard], stop: StopRequest | None = None, tick: Callable[[], None] | None = None
    ) -> Iterator[PartSummary]:
        """Summaries of the parts, as they are finished. Takes a new shard only when a worker has room for it.

        `tick` is called at least once a second.
        Raises ScoringInterrupted after `stop` was asked for: shards under way get its patience, no other is begun.
        """
        asked = stop or StopRequest()
        waiting = iter(shards)
        again: deque[PlannedShard] = deque()
        exhausted = False
        while True:
            while not exhausted or again:
                member = min(self._members, key=lambda item: len(item.tasks))
                if len(member.tasks) >= UNDER_WAY_PER_WORKER:
                    break
                shard = again.popleft() if again else next(waiting, None)
                if shard is None:
                    exhausted = True
                    break
                member.tasks.append((member.actor.score_planned.remote(shard), shard))
            if not any(member.tasks for member in self._members):
                return
            summary = self._next_result(again)
            if tick is not None:
                tick()
            if summary is not None:
                yield summary
            if asked.signal_number is not None:
                yield from self._finish_under_way(asked.patience)
                raise ScoringInterrupted(asked.signal_number)

    def _finish_under_way(self, patience: float) -> Iterator[PartSummary]:
        """What the workers are at right now, as far as it is finished in time; what waits behind it is left."""
        import ray

        until = time.monotonic() + patience
        at_work = {member.tasks[0][0] for member in self._members if member.tasks}
        while at_work and (left := until - time.monotonic()) > 0:
            done, _ = ray.wait(list(at_work), num_returns=1, timeout=left)
            for task in done:
                at_work.discard(task)
                try:
                    yield ray.get(task)
                except ray.exceptions.RayError:
                    # The same signal may have ended the worker; its shard is missing then, and done by the next call.
                    continue

    def _next_result(self, again: deque[PlannedShard]) -> PartSummary | None:
        """Wait a little for one worker; its result, or None where none came or it died (its shards are in `again`)."""
        import ray

        member_of = {task: member for member in self._members for task, _ in member.tasks}
        done, _ = ray.wait(list(member_of), num_returns=1, timeout=LOOK_SECONDS)
        if not done:
            return None
        member = member_of[done[0]]
        shard = next(shard for task, shard in member.tasks if task == done[0])
        try:
            summary: PartSummary = ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            raise TriageError(f"Shard {shard.index} could not be scored: {error.cause}") from error
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            # Without a node nothing would ever take a new worker in, and Ray would wait for one without a word.
            if any(node["Alive"] for node in ray.nodes()):  # type: ignore[no-untyped-call]
                self._replace(member, again, error)
            else:
                self._start_again(again)
            return None
        member.tasks = deque(item for item in member.tasks if item[0] != done[0])
        member.rows += summary.rows
        member.errors += summary.verdicts.get("error", 0)
        return summary

    def _replace(self, member: _Member, again: deque[PlannedShard], error: Exception) -> None:
        self.lost_workers += 1
        at_work = member.tasks[0][1]
        self._attempts[at_work.index] = self._attempts.get(at_work.index, 0) + 1
        if self._attempts[at_work.index] >= SHARD_ATTEMPTS:
            raise TriageError(
                f"Shard {at_work.index} (tickets {at_work.span}) ended "
                f"{SHARD_ATTEMPTS} workers. If memory ran out, lower batch_size or workers and run the same command "
                "again; finished parts are kept."
            )
        self._check_restarts()
        deaths = self._attempts[at_work.index]
        # One death may be anybody's; a second at the same shard, or what Ray says of it, points at the memory.
        lean = deaths > 1 or "memory" in str(error).casefold()
        fresh = self._new_member(max(1, self._order.batch_size >> deaths) if lean else None)
        fresh.rows, fresh.errors, fresh.restarts, fresh.since = (
            member.rows,
            member.errors,
            member.restarts + 1,
            member.since,
        )
        fresh.tasks.append((fresh.actor.score_planned.remote(at_work), at_work))
        again.extend(shard for _, shard in list(member.tasks)[1:])
        self._members[self._members.index(member)] = fresh

    def _start_again(self, again: deque[PlannedShard]) -> None:
        """Ray anew, with new workers: the node that this pool had started is dead, most often its raylet was killed."""
        import ray

        if self._address is not None or not self._started_ray:
            raise TriageError(
                "No node of the Ray cluster is alive any more. Start one and run the same command again; finished parts "
                "are kept."
            )
        self.lost_workers += len(self._members)
        self._check_restarts()
        for member in self._members:
            again.extend(shard for _, shard in member.tasks)
        ray.shutdown()
        self._started_ray = start_ray(self._address, self._workers, self._gpus)
        self._members = [
            replace(self._new_member(), rows=old.rows, errors=old.errors, restarts=old.restarts + 1, since=old.since)
            for old in self._members
        ]

    def _check_restarts(self) -> None:
        if self.lost_workers > self._restarts:
            raise TriageError(
                f"{self.lost_workers} workers died; worker_restarts allows {self._restarts}. Most often memory ran out: "
                "use fewer workers or a smaller batch_size, and run the same command again; finished parts are kept."
            )

    def _new_member(self, rows_at_once: int | None = None) -> _Member:
        import ray

        # Ray's own restarts and retries are endless by default; the pool does both itself, and counts them.
        actor = ray.remote(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(ScoreWorker)
        return _Member(actor.remote(replace(self._order, rows_at_once=rows_at_once)))
