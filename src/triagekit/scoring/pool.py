"""Worker processes on Ray: a bounded number of shards under way, dead workers replaced, each shard's result once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from triagekit.errors import TriageError
from triagekit.scoring.joint import JointScoreWorker, JointShard, JointSummary
from triagekit.scoring.layout import start_ray
from triagekit.scoring.stopping import ScoringInterrupted, StopRequest
from triagekit.scoring.worker import WorkerOrder

UNDER_WAY_PER_WORKER = 2
"""One that is scored and one that waits, so that a worker never waits for the driver; memory stays flat."""
SHARD_ATTEMPTS = 3
LOOK_SECONDS = 1.0
"""Between two looks at whether somebody asked to stop."""
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
        self._deaths: dict[int, int] = {}
        self._rows_at_once: dict[int, int] = {}
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
            member.starting, member.since = None, time.monotonic()

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
        its patience, no other is begun; TriageError where a shard ends one worker after the other, and where no worker
        is left and none can be had.
        """
        asked = stop or StopRequest()
        waiting = iter(shards)
        again: deque[JointShard] = deque()
        exhausted = False
        while True:
            while not exhausted or again:
                member = self._least_busy()
                if member is None:
                    break
                shard = again.popleft() if again else next(waiting, None)
                if shard is None:
                    exhausted = True
                    break
                member.tasks.append(
                    (member.actor.score_planned.remote(shard, self._rows_at_once.get(shard.index)), shard)
                )
            if exhausted and not again and not any(member.tasks for member in self._members):
                return
            summary = self._next_result(again)
            if tick is not None:
                tick()
            if summary is not None:
                yield summary
            if asked.signal_number is not None:
                yield from self._finish_under_way(asked.patience)
                raise ScoringInterrupted(asked.signal_number)

    def _least_busy(self) -> _Member | None:
        """A worker that lives and has room for a shard more."""
        living = [member for member in self._members if member.starting is None]
        member = min(living, key=lambda item: len(item.tasks), default=None)
        return member if member is not None and len(member.tasks) < UNDER_WAY_PER_WORKER else None

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
        """Wait a little for one worker; its result, or None where none came, it has begun to live, or it died (its shards
        are in `again`)."""
        import ray

        member_of = {task: member for member in self._members for task, _ in member.tasks}
        member_of |= {member.starting: member for member in self._members if member.starting is not None}
        done, _ = ray.wait(list(member_of), num_returns=1, timeout=LOOK_SECONDS)
        if not done:
            self._check_room()
            return None
        member = member_of[done[0]]
        try:
            found = ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            shard = next(shard for task, shard in member.tasks if task == done[0])
            raise TriageError(f"Shard {shard.index} could not be scored: {error.cause}") from error
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
        member.rows += summary.rows
        member.errors += summary.errors
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
        self.lost_workers += 1
        if member.tasks:
            at_work = member.tasks[0][1]
            deaths = self._deaths[at_work.index] = self._deaths.get(at_work.index, 0) + 1
            if deaths >= SHARD_ATTEMPTS:
                raise TriageError(
                    f"Shard {at_work.index} (tickets {at_work.span}) ended "
                    f"{SHARD_ATTEMPTS} workers. If memory ran out, lower batch_size or workers and run the same command "
                    "again; finished parts are kept."
                )
            # One death may be anybody's; a second at the same shard, or what Ray says of it, points at the memory.
            if deaths > 1 or "memory" in str(error).casefold():
                self._rows_at_once[at_work.index] = max(1, self._orders[0].batch_size >> deaths)
        self._check_restarts()
        again.extend(shard for _, shard in member.tasks)
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
        self._check_restarts()
        for member in self._members:
            again.extend(shard for _, shard in member.tasks)
        ray.shutdown()
        self._started_ray = start_ray(self._address, self._workers, self._gpus)
        self._members = [self._successor(member) for member in self._members]

    def _check_restarts(self) -> None:
        if self.lost_workers > self._restarts:
            raise TriageError(
                f"{self.lost_workers} workers died; worker_restarts allows {self._restarts}. Most often memory ran out: "
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
