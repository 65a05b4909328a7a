"""A Ray cluster over the nodes of one Slurm job, for the length of one `triage score`, and nothing left of it after.

Started once a node, by srun with one task a node:

    srun --ntasks-per-node=1 python -m triagekit.cluster.ray_cluster -- ARCHIVE --run RUN --out OUT

The first node is the head: it waits until all nodes have joined, scores there, and its exit code is that of
`triage score`. The other nodes end when the head does. Nothing is taken down by `ray stop`, which would end the Ray
of every other job of the same user on a shared node.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from triagekit.cluster.ray_ports import MAX_WORKER_PROCESSES, RayPorts, free_ports, ports_of
from triagekit.errors import TriageError
from triagekit.launching.processes import start_child
from triagekit.launching.rendezvous import from_slurm, host_names

OBJECT_STORE_BYTES = 256 << 20
JOIN_SECONDS = 300.0
END_SECONDS = 15.0
HEAD_SILENT_SECONDS = 6.0
ASK_SECONDS = 120.0
SIGNAL_EXIT = 128
FAILED = 1
_ASK_NODES = """
import logging, ray, sys
ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
print(*[node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]])
"""
_LONGEST_TEMP = 40
"""Ray puts sockets below its folder, and a socket's path may have 107 characters."""


@dataclass(frozen=True)
class RayPlace:
    """This node's part in the cluster."""

    job: int
    nodes: int
    node_rank: int
    head_address: str
    own_address: str

    @property
    def is_head(self) -> bool:
        """Whether the work is started here."""
        return self.node_rank == 0

    @property
    def address(self) -> str:
        """What `ray_address` is."""
        return f"{self.head_address}:{ports_of(self.job).head}"


def place_from_slurm(environment: Mapping[str, str]) -> RayPlace:
    """Read from the environment of a Slurm step. Raises TriageError outside one, or where a name leads to this host only."""
    if "SLURM_JOB_ID" not in environment or "SLURM_STEP_ID" not in environment:
        raise TriageError(
            "A Ray cluster is formed inside a Slurm job, once a node: sbatch slurm/score_ray.sbatch …, or "
            "triage submit score. On one machine `triage score` starts Ray by itself."
        )
    meeting = from_slurm(environment)
    names = host_names(environment["SLURM_JOB_NODELIST"])
    nodes, rank = (meeting.nodes, meeting.node_rank) if meeting else (1, 0)
    head = meeting.master_address if meeting else names[0]
    own = meeting.node_name if meeting else names[0]
    addresses = [_address_of(name, nodes) for name in (head, own)]
    return RayPlace(int(environment["SLURM_JOB_ID"]), nodes, rank, *addresses)


def _address_of(name: str, nodes: int) -> str:
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        raise TriageError(
            f"The node's name '{name}' has no address here ({error}). The nodes of a job must be able to find each "
            "other by name; ask the cluster's support."
        ) from None
    if nodes > 1 and address.startswith("127."):
        raise TriageError(
            f"The node's name '{name}' leads to {address}, which is each node itself: the nodes would never meet. Its "
            "entry in /etc/hosts should give its network address."
        )
    return address


def temp_folder(environment: Mapping[str, str], job: int, node_rank: int) -> Path:
    """A short folder on this node's own disk, one per job and node."""
    for base in (environment.get("SLURM_TMPDIR"), environment.get("TMPDIR"), "/tmp"):
        folder = Path(base or "/tmp") / f"ray-{job}-{node_rank}"
        if len(str(folder)) <= _LONGEST_TEMP and folder.parent.is_dir():
            break
    return folder


def start_words(place: RayPlace, ports: RayPorts, temp: Path, cpus: int, gpus: int) -> list[str]:
    """The `ray start` of this node."""
    role = ["--head", *ports.head_options] if place.is_head else [f"--address={place.address}"]
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", *role),
        f"--node-ip-address={place.own_address}",
        *ports.options,
        f"--num-cpus={cpus}",
        f"--num-gpus={gpus}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--include-log-monitor=false",
        *(["--include-dashboard=false", "--disable-usage-stats"] if place.is_head else []),
        f"--temp-dir={temp}",
        "--block",
    ]


def own_share(environment: Mapping[str, str]) -> tuple[int, int]:
    """(CPUs, GPUs) that Slurm gave this job on this node."""
    given = environment.get("SLURM_CPUS_PER_TASK") or environment.get("SLURM_CPUS_ON_NODE") or ""
    cpus = int(given) if given.isdigit() else len(os.sched_getaffinity(0))
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    return min(cpus, MAX_WORKER_PROCESSES // 2), len([card for card in visible.split(",") if card.strip()])


class RayNode:
    """`ray start --block` as a child of this process; it and all that it started end with the block."""

    def __init__(self, place: RayPlace, environment: Mapping[str, str]) -> None:
        self.stop_signal: int | None = None
        self._place = place
        self._environment = environment
        self._temp = temp_folder(environment, place.job, place.node_rank)
        self._log = self._temp / "start.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._work: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RayNode:
        shutil.rmtree(self._temp, ignore_errors=True)
        self._temp.mkdir(parents=True, mode=0o700)
        ports = free_ports(self._place.job, self._place.own_address, must_be_first=self._place.is_head)
        cpus, gpus = own_share(self._environment)
        words = start_words(self._place, ports, self._temp, cpus, gpus)
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._note)
        # Ray writes some thirty lines at every start; they are only worth reading when it fails.
        quiet = ["/bin/sh", "-c", 'exec "$@" >"$0" 2>&1 </dev/null', str(self._log), *words]
        self._process = start_child(quiet, dict(self._environment))
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stop_signal = self.stop_signal or number
        if self._work is not None and self._work.poll() is None:
            self._work.send_signal(number)

    def __exit__(self, *unused: object) -> None:
        if self._process is not None:
            _end_group(self._process)
        shutil.rmtree(self._temp, ignore_errors=True)

    @property
    def has_ended(self) -> bool:
        """Whether Ray is gone from this node."""
        return self._process is None or self._process.poll() is not None

    def check_alive(self) -> None:
        """Raises TriageError with Ray's own last words where it has ended."""
        if self.has_ended:
            words = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
            last = "\n".join(f"  {line}" for line in words.strip().splitlines()[-15:])
            raise TriageError(f"Ray ended on {socket.gethostname()}:\n{last}")

    def score(self, words: Sequence[str]) -> int:
        """Run `triage score` on the formed cluster; its exit code, or 128 + signal where that stopped it."""
        if self.stop_signal is not None:
            return SIGNAL_EXIT + self.stop_signal
        self._work = subprocess.Popen(
            [sys.executable, "-m", "triagekit", "score", *words, f"ray_address={self._place.address}"]
        )
        code = self._work.wait()
        if code == 0 or self.stop_signal is None:
            return code if code >= 0 else SIGNAL_EXIT - code
        return SIGNAL_EXIT + self.stop_signal

    def serve(self) -> int:
        """Stay until the head has gone; 0 then, since the head's exit code is the truth about the work."""
        silent_since: float | None = None
        while silent_since is None or time.monotonic() - silent_since < HEAD_SILENT_SECONDS:
            silent_since = None if head_answers(self._place) else silent_since or time.monotonic()
            if silent_since is None and self.stop_signal is None:
                self.check_alive()
            time.sleep(1.0)
        return 0


def _end_group(process: subprocess.Popen[bytes]) -> None:
    # TERM lets `ray start` take down what it started; KILL is for what is left of its group.
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def wait_for_head(place: RayPlace, seconds: float) -> None:
    """Until the head listens. Raises TriageError when it does not in time."""
    until = time.monotonic() + seconds
    while not head_answers(place):
        if time.monotonic() > until:
            raise TriageError(
                f"The head of the Ray cluster does not answer at {place.address} after {seconds:.0f} s. The job's log "
                "has what it said."
            )
        time.sleep(0.5)


def wait_for_nodes(node: RayNode, place: RayPlace, seconds: float) -> None:
    """Until every node of the job is in the cluster, or a signal came. Raises TriageError naming those that came."""
    until = time.monotonic() + seconds
    addresses: list[str] = []
    while node.stop_signal is None and time.monotonic() < until:
        node.check_alive()
        addresses = _joined(place) if head_answers(place) else []
        if len(addresses) == place.nodes:
            print(f"triage: Ray cluster at {place.address}: {', '.join(addresses)}", file=sys.stderr, flush=True)
            return
        time.sleep(1.0)
    if node.stop_signal is None:
        raise TriageError(
            f"{len(addresses)} of {place.nodes} nodes joined the Ray cluster at {place.address} within {seconds:.0f} s "
            f"({', '.join(addresses) or 'none'}). The job's log has what the others said."
        )


def _joined(place: RayPlace) -> list[str]:
    """Addresses of the nodes in the cluster. Asked by a child, as ray.init would take over this process's signals."""
    words = [sys.executable, "-c", _ASK_NODES, place.address]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return []
    return sorted(set(answer.stdout.split())) if answer.returncode == 0 else []


def head_answers(place: RayPlace) -> bool:
    """Whether something listens where the head's control service should be."""
    try:
        with socket.create_connection((place.head_address, ports_of(place.job).head), timeout=2.0):
            return True
    except OSError:
        return False


def run_on_this_node(words: Sequence[str], join_seconds: float, environment: Mapping[str, str]) -> int:
    """This node's part of the whole: the exit code of `triage score` on the head, 0 elsewhere."""
    # The warning before the time limit goes to every process of the step; until there is work, nobody needs it.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    place = place_from_slurm(environment)
    if not place.is_head:
        wait_for_head(place, join_seconds)
    with RayNode(place, environment) as node:
        if not place.is_head:
            return node.serve()
        wait_for_nodes(node, place, join_seconds)
        return node.score(words)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m triagekit.cluster.ray_cluster",
        description="Form a Ray cluster over this Slurm step's nodes and run `triage score` on it.",
        epilog="Example: srun --ntasks-per-node=1 python -m triagekit.cluster.ray_cluster -- a.csv --run RUN --out OUT",
    )
    parser.add_argument("--join-seconds", type=float, default=JOIN_SECONDS, help="wait so long for all nodes (300)")
    parser.add_argument("words", nargs="+", metavar="WORD", help="after --: what follows `triage score`")
    options = parser.parse_args(arguments)
    try:
        return run_on_this_node(options.words, options.join_seconds, os.environ)
    except TriageError as error:
        print(f"triage: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
