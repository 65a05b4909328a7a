"""Ray for an archive job: one of its own or a running cluster, and how many workers of what size fit on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from triagekit.errors import TriageError

OBJECT_STORE_BYTES = 256 << 20
START_ATTEMPTS = 3
_PATIENCE = {"RAY_worker_register_timeout_seconds": "300", "RAY_health_check_failure_threshold": "20"}
"""On a machine that others use too, importing torch can take longer than Ray's defaults give a worker to appear."""


@dataclass(frozen=True)
class WorkerLayout:
    """Number of workers, and what each has: threads, GPUs, and the CPUs that Ray reserves for it."""

    workers: int
    threads: int
    gpus: int
    cpus: int


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
