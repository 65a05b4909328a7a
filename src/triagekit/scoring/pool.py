"""Worker processes on Ray: a bounded number of shards under way, dead workers replaced, each shard's result once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from triagekit.errors import TriageError
from triagekit.scoring.care import SHARD_ATTEMPTS, CarefulShards
from triagekit.scoring.joint import JointScoreWorker, JointShard, JointSummary
from triagekit.scoring.layout import start_ray
from triagekit.scoring.stopping import ScoringInterrupted, StopRequest
from triagekit.scoring.worker import NothingScored, WorkerOrder

UNDER_WAY_PER_WORKER = 2
"""One that is scored and one that waits, so that a worker never waits for the driver; memory stays flat."""
LOOK_SECONDS = 1.0
"""Between two looks at whether somebody asked to stop."""
SETTLE_SECONDS = 10.0
"""For Ray to tell of each task of a dead worker how it ended."""
ROOM_SECONDS = 600.0
"""Without a single worker, because the cluster has no room for one: then the job gives up."""


@dataclass
class _Member:
    """A worker and the shards given to it, oldest first: the first is the one it is at."""

    actor: Any
    starting: Any = None
    """A call that returns once the worker lives; None when it has. Where a node is lost there may be no room for it."""
    tasks: deque[tuple[Any, JointShard]] = field(default_factory=deque)
    rows: int = 0
    errors: int = 0
    restarts: int = 0
    since: float = field(default_factory=time.monotonic)


class WorkerPool:
    """Scores shards on Ray actors. A context manager: the workers end with it, and Ray too if it was started by it."""

    def __init__(
        self,
        orders: Sequence[WorkerOrder],
        workers: int,
        restarts: int,
        address: str | None,
        gpus: int,
        cpus: int = 1,
    ) -> None:
        """`orders`: one a run; every worker serves them all. `gpus` and `cpus` are what Ray reserves for each worker."""
        self.lost_workers = 0
        self._cpus = cpus
        self._orders = orders
        self._workers = workers
        self._restarts = restarts
        self._address = address
        self._gpus = gpus
        self._members: list[_Member] = []
        self._careful = CarefulShards(orders[0].batch_size, [order.out for order in orders])
        self._lost_in_a_row = 0
        self._kept: deque[JointSummary] = deque()
        self._started_ray = False
        self._without_workers_since: float | None = None

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
        """Load the adapters in every worker. Raises TriageError with the worker's own words where it is refused."""
        import ray

        number = 0
        while number < len(self._members):
            member = self._members[number]
            try:
                refusal = ray.get(member.actor.open.remote())
            except ray.exceptions.RayTaskError as error:
                raise TriageError(f"A worker could not load the adapter: {error.cause!r}") from error
            except ray.exceptions.RayActorError:
                self._lose(member)
                continue
            if refusal:
                raise TriageError(refusal)
            member.starting, member.since = None, time.monotonic()
            number += 1

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
        self, shards: Iterable[JointShard], stop: StopRequest | None = None, tick: Callable[[], None] | None = None
    ) -> Iterator[JointSummary]:
        """Summaries of the parts, as they are finished. Takes a new shard only when a worker has room for it.

        `tick` is called at least once a second. Raises ScoringInterrupted after `stop` was asked for: shards under way get
        its patience, no other is begun; TriageError where a shard cannot be scored whatever is tried, and where workers
        die one after the other or none can be had.
        """
        asked = stop or StopRequest()
        waiting = iter(shards)
        again: deque[JointShard] = deque()
        exhausted = False
        while True:
            while self._least_busy() is not None:
                shard = next((each for each in again if self._careful.is_due(each)), None)
                if shard is not None:
                    again.remove(shard)
                elif exhausted or (shard := next(waiting, None)) is None:
                    exhausted = True
                    break
                member = self._least_busy(shard)
                assert member is not None
                member.tasks.append((member.actor.score_planned.remote(shard, self._careful.care(shard)), shard))
            if exhausted and not again and not self._kept and not any(member.tasks for member in self._members):
                return
            summary = self._next_result(again)
            if tick is not None:
                tick()
            if summary is not None:
                yield summary
            if asked.signal_number is not None:
                yield from self._finish_under_way(asked.patience)
                raise ScoringInterrupted(asked.signal_number)

    def _least_busy(self, shard: JointShard | None = None) -> _Member | None:
        """A worker that lives and has room for a shard more; best one that `shard` has not failed in."""
        with_room = [
            member for member in self._members if member.starting is None and len(member.tasks) < UNDER_WAY_PER_WORKER
        ]

        def rank(member: _Member) -> tuple[bool, int]:
            return shard is not None and self._careful.has_failed_in(shard, member.actor), len(member.tasks)

        return min(with_room, key=rank, default=None)

    def _finish_under_way(self, patience: float) -> Iterator[JointSummary]:
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

    def _next_result(self, again: deque[JointShard]) -> JointSummary | None:
        """Wait a little for one worker; its result, or None where none came, it has begun to live, or it failed or died
        (its shards are in `again`)."""
        import ray

        if self._kept:
            return self._kept.popleft()
        member_of = {task: member for member in self._members for task, _ in member.tasks}
        member_of |= {member.starting: member for member in self._members if member.starting is not None}
        if not member_of:
            # All that is left has failed, and waits for its time.
            time.sleep(LOOK_SECONDS)
            return None
        done, _ = ray.wait(list(member_of), num_returns=1, timeout=LOOK_SECONDS)
        if not done:
            self._check_room()
            return None
        member = member_of[done[0]]
        try:
            found = ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            self._failed(member, done[0], error.cause, again)
            return None
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            # Without a node nothing would ever take a new worker in, and Ray would wait for one without a word.
            if any(node["Alive"] for node in ray.nodes()):  # type: ignore[no-untyped-call]
                self._replace(member, again, error)
            else:
                self._start_again(again)
            return None
        if done[0] == member.starting:
            member.starting = self._without_workers_since = None
            return None
        summary: JointSummary = found
        member.tasks = deque(item for item in member.tasks if item[0] != done[0])
        self._take(member, summary)
        return summary

    def _check_room(self) -> None:
        """Raises TriageError where nothing lives, and nothing has come to life for long."""
        if any(member.starting is None for member in self._members):
            self._without_workers_since = None
            return
        now = time.monotonic()
        self._without_workers_since = self._without_workers_since or now
        if now - self._without_workers_since > ROOM_SECONDS:
            raise TriageError(
                f"The Ray cluster has had no room for a worker for {ROOM_SECONDS / 60:.0f} minutes. Run the same command "
                "again when it has; finished parts are kept."
            )

    def _replace(self, member: _Member, again: deque[JointShard], error: Exception) -> None:
        """A new worker for one that died. What it was at goes to whoever lives: a new one may find no room."""
        left = self._unfinished(member)
        if left and self._careful.died(left[0], str(error)):
            self._lost_in_a_row = 0
        again.extend(left)
        self._lose(member)

    def _unfinished(self, member: _Member) -> list[JointShard]:
        """The shards that a dead worker has left, the one that it was at first. What it had finished and nobody had asked for
        yet is kept."""
        import ray

        left = []
        for task, shard in member.tasks:
            try:
                summary: JointSummary = ray.get(task, timeout=SETTLE_SECONDS)
            except ray.exceptions.RayError:
                left.append(shard)
            else:
                self._take(member, summary)
                self._kept.append(summary)
        return left

    def _take(self, member: _Member, summary: JointSummary) -> None:
        """Note what a worker has done."""
        member.rows += summary.rows
        member.errors += summary.errors
        self._lost_in_a_row = 0

    def _failed(self, member: _Member, task: Any, cause: object, again: deque[JointShard]) -> None:
        """A shard has failed in a worker that lives. Raises TriageError for what no other worker would do better."""
        shard = next(shard for given, shard in member.tasks if given == task)
        nothing_scored = isinstance(cause, NothingScored)
        if isinstance(cause, TriageError) and not nothing_scored:
            raise TriageError(f"Shard {shard.index} could not be scored: {cause}")
        self._careful.failed(shard, member.actor, cause, 1 if nothing_scored else SHARD_ATTEMPTS)
        if nothing_scored:
            # A GPU may have fallen over: the process would answer nobody any more.
            import ray

            again.extend(waiting for _, waiting in member.tasks)
            ray.kill(member.actor)
            self._lose(member)
        else:
            member.tasks = deque(item for item in member.tasks if item[0] != task)
            again.append(shard)

    def _lose(self, member: _Member) -> None:
        """Put another worker in the place of one that is gone."""
        self.lost_workers += 1
        self._lost_in_a_row += 1
        self._check_restarts()
        self._members[self._members.index(member)] = self._successor(member)

    def _start_again(self, again: deque[JointShard]) -> None:
        """Ray anew, with new workers: the node that this pool had started is dead, most often its raylet was killed."""
        import ray

        if self._address is not None or not self._started_ray:
            raise TriageError(
                "No node of the Ray cluster is alive any more. Start one and run the same command again; finished parts "
                "are kept."
            )
        self.lost_workers += len(self._members)
        self._lost_in_a_row += len(self._members)
        self._check_restarts()
        for member in self._members:
            again.extend(shard for _, shard in member.tasks)
        ray.shutdown()
        self._started_ray = start_ray(self._address, self._workers, self._gpus)
        self._members = [self._successor(member) for member in self._members]

    def _check_restarts(self) -> None:
        if self._lost_in_a_row > self._restarts:
            raise TriageError(
                f"{self._lost_in_a_row} workers died, and no shard was finished in between; worker_restarts allows "
                f"{self._restarts}. Most often memory ran out: "
                "use fewer workers or a smaller batch_size, and run the same command again; finished parts are kept."
            )

    def _successor(self, old: _Member) -> _Member:
        return replace(self._new_member(), rows=old.rows, errors=old.errors, restarts=old.restarts + 1, since=old.since)

    def _new_member(self) -> _Member:
        import ray

        # Ray's own restarts and retries are endless by default; the pool does both itself, and counts them.
        actor: Any = ray.remote(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(JointScoreWorker)
        worker = actor.remote(self._orders)
        return _Member(worker, worker.process_id.remote())
