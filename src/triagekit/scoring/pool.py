"""Worker processes on Ray: a bounded number of shards under way, dead workers replaced, each shard's result once."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from triagekit.errors import TriageError
from triagekit.scoring.intake import Shard
from triagekit.scoring.parts import PartSummary
from triagekit.scoring.stopping import ScoringInterrupted, StopRequest
from triagekit.scoring.worker import ScoreWorker, WorkerOrder

OBJECT_STORE_BYTES = 256 << 20
UNDER_WAY_PER_WORKER = 2
"""One that is scored and one that waits, so that a worker never waits for the driver; memory stays flat."""
SHARD_ATTEMPTS = 3
START_ATTEMPTS = 3
LOOK_SECONDS = 1.0
"""Between two looks at whether somebody asked to stop."""
_PATIENCE = {"RAY_worker_register_timeout_seconds": "300", "RAY_health_check_failure_threshold": "20"}
"""On a machine that others use too, importing torch can take longer than Ray's defaults give a worker to appear."""


@dataclass
class _Member:
    """A worker and the shards given to it, oldest first: the first is the one it is at."""

    actor: Any
    tasks: deque[tuple[Any, Shard]] = field(default_factory=deque)


@dataclass(frozen=True)
class WorkerLayout:
    """Number of workers, and what each has: threads, GPUs, and the CPUs that Ray reserves for it."""

    workers: int
    threads: int
    gpus: int
    cpus: int


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

    def score(self, shards: Iterable[Shard], stop: StopRequest | None = None) -> Iterator[PartSummary]:
        """Summaries of the parts, as they are finished. Takes a new shard only when a worker has room for it.

        Raises ScoringInterrupted after `stop` was asked for: shards under way get its patience, no other is begun.
        """
        asked = stop or StopRequest()
        waiting = iter(shards)
        again: deque[Shard] = deque()
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
                member.tasks.append((member.actor.score.remote(shard), shard))
            if not any(member.tasks for member in self._members):
                return
            summary = self._next_result(again)
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

    def _next_result(self, again: deque[Shard]) -> PartSummary | None:
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
        except ray.exceptions.RayActorError:
            self._replace(member, again)
            return None
        member.tasks = deque(item for item in member.tasks if item[0] != done[0])
        return summary

    def _replace(self, member: _Member, again: deque[Shard]) -> None:
        self.lost_workers += 1
        at_work = member.tasks[0][1]
        self._attempts[at_work.index] = self._attempts.get(at_work.index, 0) + 1
        if self._attempts[at_work.index] >= SHARD_ATTEMPTS:
            raise TriageError(
                f"Shard {at_work.index} (tickets {at_work.rows[0][0]!r} to {at_work.rows[-1][0]!r}) ended "
                f"{SHARD_ATTEMPTS} workers. If memory ran out, lower batch_size or workers and run the same command "
                "again; finished parts are kept."
            )
        if self.lost_workers > self._restarts:
            raise TriageError(
                f"{self.lost_workers} workers died; worker_restarts allows {self._restarts}. Most often memory ran out: "
                "use fewer workers or a smaller batch_size, and run the same command again; finished parts are kept."
            )
        again.extend(shard for _, shard in member.tasks)
        self._members[self._members.index(member)] = self._new_member()

    def _new_member(self) -> _Member:
        import ray

        # Ray's own restarts and retries are endless by default; the pool does both itself, and counts them.
        actor = ray.remote(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(ScoreWorker)
        return _Member(actor.remote(self._order))


def start_ray(address: str | None, workers: int, gpus: int) -> bool:
    """Connect to a running cluster, or start one of this process's own without dashboard and usage report.

    Returns False where this process is connected already: that connection is used, and left as it is.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Workers that spin while they wait for one another cost more than they give when they share cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    import logging

    import ray

    if ray.is_initialized():
        return False
    if address is not None:
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise TriageError(f"No Ray cluster answers at {address}: {error}") from error
        return True
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(
                address="local",
                # Logical: more than the machine's cores do no harm, fewer than actors would wait for one another for ever.
                num_cpus=workers + 1,
                num_gpus=workers * gpus if gpus else None,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            break
        except Exception as error:  # Ray raises the bare class when a busy machine does not start it in 30 seconds
            ray.shutdown()
            if attempt + 1 == START_ATTEMPTS:
                raise TriageError(f"Ray did not start on this machine: {error}") from error
    return True


def cluster_layout(workers: int, device: str | None) -> tuple[int, int, int]:
    """(workers, threads of each, GPUs of each) for the Ray cluster this process is connected to.

    Every worker fits on one node beside the others: Ray would wait for ever for a place that does not come. Raises
    TriageError where so many workers do not fit.
    """
    import ray

    nodes = [
        (int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    gpus = 0 if device == "cpu" else sum(count for _, count in nodes)
    count = workers or gpus or sum(max(1, cores // 2) for cores, _ in nodes if cores)

    def places(threads: int) -> int:
        return sum(min(cores // threads, cards) if gpus else cores // threads for cores, cards in nodes)

    fitting = [
        threads for threads in range(1, max((cores for cores, _ in nodes), default=0) + 1) if places(threads) >= count
    ]
    if not count or not fitting:
        have = ", ".join(f"{cores} CPUs" + (f" and {cards} GPUs" if cards else "") for cores, cards in nodes)
        raise TriageError(
            f"workers={count} do not fit on the Ray cluster ({have or 'no node'}): it has room for "
            f"{places(1)}. Ask for fewer, or for a larger cluster."
        )
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = min(int(asked), max(fitting)) if asked.isdigit() and int(asked) > 0 else max(fitting)
    return count, threads, 1 if gpus else 0


@contextmanager
def laid_out(workers: int, device: str | None, address: str | None) -> Iterator[WorkerLayout]:
    """How many workers of what size; inside the block this process is connected to the cluster at `address`, if any."""
    import ray

    if address is None:
        yield WorkerLayout(*worker_layout(workers, device), cpus=1)
        return
    connected = start_ray(address, 0, 0)
    try:
        count, threads, gpus = cluster_layout(workers, device)
        yield WorkerLayout(count, threads, gpus, cpus=threads)
    finally:
        if connected:
            ray.shutdown()


def worker_layout(workers: int, device: str | None) -> tuple[int, int, int]:
    """(workers, threads of each, GPUs of each) for this machine; `workers` 0 means as many as are useful."""
    cores = len(os.sched_getaffinity(0))
    gpus = 0 if device == "cpu" else _gpu_count()
    count = workers or gpus or max(1, cores // 2)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(asked) if asked.isdigit() and int(asked) > 0 else max(1, cores // count)
    return count, threads, 1 if gpus else 0


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()
