"""Ports of a Ray node, derived from the job: jobs that share a node do not meet, and every node knows the head's."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from triagekit.errors import TriageError

FIRST_PORT = 10000
BLOCK = 250
BLOCKS = 88
"""Ports 10000 to 31999: below the range from which Linux gives ports to outgoing connections."""
_NAMED = (
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)
_RESERVED = 10
"""Named ports at the beginning of a block; the rest is for worker processes."""
MAX_WORKER_PROCESSES = BLOCK - _RESERVED


@dataclass(frozen=True)
class RayPorts:
    """One block of consecutive ports, used by one node of one job."""

    first: int

    @property
    def head(self) -> int:
        """Where the cluster's control service listens; only used on the head."""
        return self.first

    @property
    def options(self) -> list[str]:
        """Words of `ray start` that every node needs: a port left to chance may be another job's."""
        named = [f"--{name}={self.first + 2 + index}" for index, name in enumerate(_NAMED)]
        return [
            *named,
            f"--min-worker-port={self.first + _RESERVED}",
            f"--max-worker-port={self.first + BLOCK - 1}",
        ]

    @property
    def head_options(self) -> list[str]:
        """Words of `ray start --head` beside the common ones."""
        return [
            f"--port={self.head}",
            f"--ray-client-server-port={self.first + 1}",
            f"--dashboard-port={self.first + 2 + len(_NAMED)}",
        ]

    def is_free(self, address: str) -> bool:
        """Whether nothing on this node listens on the ports that have a name (worker processes skip a taken one)."""
        return all(_can_listen(address, port) for port in range(self.first, self.first + _RESERVED))


def ports_of(job: int, turn: int = 0) -> RayPorts:
    """The block of a job; `turn` counts through the others where that one is taken."""
    return RayPorts(FIRST_PORT + (job + turn) % BLOCKS * BLOCK)


def free_ports(job: int, address: str, must_be_first: bool) -> RayPorts:
    """A free block for this node. The head's must be the job's own, which the other nodes know too.

    Raises TriageError where ports are taken.
    """
    for turn in range(1 if must_be_first else BLOCKS):
        ports = ports_of(job, turn)
        if ports.is_free(address):
            return ports
    ports = ports_of(job)
    raise TriageError(
        f"Ports {ports.first} to {ports.first + _RESERVED - 1} on {socket.gethostname()} ({address}), which follow from "
        f"job {job}, are used by another process. Submit the job again: another job number gives other ports."
    )


def _can_listen(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
