"""Worker processes on Ray: a bounded number of shards under way, dead workers replaced, each shard's result once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from triagekit.errors import TriageError
from triagekit.scoring.intake import Shard
from triagekit.scoring.parts import PartSummary
from triagekit.scoring.worker import ScoreWorker, WorkerOrder

OBJECT_STORE_BYTES = 256 << 20
UNDER_WAY_PER_WORKER = 2
"""One that is scored and one that waits, so that a worker never waits for the driver; memory stays flat."""
SHARD_ATTEMPTS = 3
START_ATTEMPTS = 3
_PATIENCE = {"RAY_worker_register_timeout_seconds": "300", "RAY_health_check_failure_threshold": "20"}
"""On a machine that others use too, importing torch can take longer than Ray's defaults give a worker to appear."""


@dataclass
class _Member:
    """A worker and the shards given to it, oldest first: the first is the one it is at."""

    actor: Any
    tasks: deque[tuple[Any, Shard]] = field(default_factory=deque)


class WorkerPool:
    """Scores shards on Ray actors. A context manager: the workers end with it, and Ray too if it was started by it."""

    def __init__(self, order: WorkerOrder, workers: int, restarts: int, address: str | None, gpus: int) -> None:
        self.lost_workers = 0
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

    def score(self, shards: Iterable[Shard]) -> Iterator[PartSummary]:
        """Summaries of the parts, as they are finished. Takes a new shard only when a worker has room for it."""
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

    def _next_result(self, again: deque[Shard]) -> PartSummary | None:
        """Wait for one worker; its result, or None after its death (its shards are then in `again`)."""
        import ray

        member_of = {task: member for member in self._members for task, _ in member.tasks}
        done, _ = ray.wait(list(member_of), num_returns=1)
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
        actor = ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0, max_task_retries=0)(ScoreWorker)
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
