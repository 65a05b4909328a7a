"""A real Slurm with four nodes on this machine, for as long as a test session: started in a second, gone without trace.

Each node is a slurmd in namespaces of its own (host name, mounts, network, processes), on a bridge with the controller.
So node names resolve, `localhost` does not reach another node, and killing a node's first process is a true crash: the
kernel kills everything that ran there. Everything also dies with the process that started the cluster, even by kill -9;
a watchdog then removes its folder and its bridge.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from mini_slurm_files import NODES, address_of, prefix_of, search_path, write_cluster_files

# Holds the read end of a pipe whose write end only the owner has: reading ends when the owner does, however it ends.
WATCHDOG = 'read -r _; sleep 0.2; ip link del "$2" 2>/dev/null; rm -rf -- "$1"'


class MiniSlurm:
    """One cluster. Several may run at once: each has its own folder, port and network."""

    def __init__(self, requeue_delay: int = 5, extra: tuple[str, ...] = ()) -> None:
        """`requeue_delay` seconds pass before a requeued job may start again; `extra` lines end slurm.conf."""
        self.folder = Path(tempfile.mkdtemp(prefix="minislurm-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.port = 0
        self._requeue_delay = requeue_delay
        self._extra = extra
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be a user of this cluster: a copy of this process's environment and SLURM_CONF."""
        values = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        return values | {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf"), "PATH": search_path()}

    @property
    def environment_with_sacct(self) -> dict[str, str]:
        """The same, with a stand-in for sacct first in the path: what submitit needs, since no database runs here."""
        values = self.environment
        return values | {"PATH": f"{self.folder / 'bin'}:{values['PATH']}"}

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the daemons that run: munged, slurmctld, slurmd-a1, …"""
        return tuple(name for name, daemon in self._daemons.items() if daemon.poll() is None)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes, running or not."""
        return tuple(node.name for node in NODES)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start everything and wait until all nodes are idle. Raises RuntimeError with the daemons' logs."""
        atexit.register(self.stop)
        try:
            self._reserve_network()
            write_cluster_files(self.folder, self.port, self._requeue_delay, self._extra)
            self._launch_watchdog()
            self._launch_munge()
            self.start_controller(wait=False)
            for name in self.nodes:
                self._launch_node(name)
            for name in self.nodes:
                self._connect_node(name)
            self._wait_for_nodes()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kill everything and remove the folder and the network. May be called twice."""
        atexit.unregister(self.stop)
        for name in list(self._daemons):
            self._kill(name)
        self._ip("link", "del", self._bridge, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._watchdog is not None:
            assert self._watchdog.stdin is not None
            self._watchdog.stdin.close()
            self._watchdog.wait()
            self._watchdog = None

    def down(self, node: str, announce: bool = False) -> None:
        """Crash a node: SIGKILL to slurmd and to every process of every step on it.

        Slurm notices by itself within SlurmdTimeout; with `announce` it is told so at once, as a monitor would do.
        """
        self._kill(f"slurmd-{node}")
        (self.folder / "run" / f"{node}.go").unlink(missing_ok=True)
        if announce:
            self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=crashed")

    def up(self, node: str) -> None:
        """Bring a crashed node back and wait until Slurm uses it."""
        if not self.is_up(node):
            self._ip("link", "del", self._cable(node), check=False)
            self._launch_node(node)
            self._connect_node(node)
        self._wait_for_nodes()

    def is_up(self, node: str) -> bool:
        """Whether the node's slurmd runs."""
        return f"slurmd-{node}" in self.running

    def stop_controller(self, crash: bool = False) -> None:
        """End slurmctld: in order (it saves its state), or by SIGKILL."""
        daemon = self._daemons.get("slurmctld")
        if daemon is not None and not crash:
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
        self._kill("slurmctld")

    def start_controller(self, wait: bool = True) -> None:
        """Start slurmctld with the state it left, and wait until it answers and has its nodes."""
        if "slurmctld" not in self._daemons:
            self._launch("slurmctld", ["slurmctld", "-D", "-f", str(self.folder / "etc" / "slurm.conf")])
        self._until(self._controller_listens, 30, "slurmctld does not listen")
        if wait:
            self._wait_for_nodes()

    def run(self, *words: str, environment: Mapping[str, str] | None = None, timeout: float = 60.0) -> str:
        """Standard output of a Slurm command. Raises RuntimeError with what it said on failure."""
        result = subprocess.run(
            words, env={**self.environment, **(environment or {})}, capture_output=True, text=True, timeout=timeout
        )
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: exit code {result.returncode}: {result.stderr}{result.stdout}")
        return result.stdout

    def logs(self, lines: int = 25) -> str:
        """The last lines of every daemon's log."""
        parts = []
        log = self.folder / "log"
        for path in sorted(log.glob("*")):
            # What a daemon prints is in its log too, unless it died before it had one.
            if path.suffix == ".out" and path.with_suffix(".log").exists():
                continue
            # Debian's build looks for a PMIx library that it does not need.
            tail = [line for line in path.read_text(errors="replace").splitlines() if "pmix" not in line][-lines:]
            if tail:
                parts.append(f"--- {path.name}\n" + "\n".join(tail))
        return "\n".join(parts)

    @property
    def _bridge(self) -> str:
        return f"ms{self.port}"

    def _cable(self, node: str) -> str:
        return f"{self._bridge}n{self.nodes.index(node)}"

    def _reserve_network(self) -> None:
        """Take a free port; making the bridge named after it is what reserves it against other clusters."""
        for _ in range(100):
            self.port = random.SystemRandom().randrange(17000, 32000)
            with socket.socket() as trial:
                try:
                    trial.bind(("0.0.0.0", self.port))
                except OSError:
                    continue
            if self._ip("link", "add", self._bridge, "type", "bridge", check=False):
                self._ip("addr", "add", f"{prefix_of(self.port)}.1/24", "dev", self._bridge)
                self._ip("link", "set", self._bridge, "up")
                return
        raise RuntimeError("no free port and bridge found")

    def _launch_watchdog(self) -> None:
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "watchdog", str(self.folder), self._bridge],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def _launch_munge(self) -> None:
        run, etc, log = (self.folder / name for name in ("run", "etc", "log"))
        words = ["munged", "--foreground", f"--socket={run / 'munge.socket'}", f"--key-file={etc / 'munge.key'}"]
        words += [f"--log-file={log / 'munged.log'}", f"--pid-file={run / 'munged.pid'}"]
        self._launch("munged", [*words, f"--seed-file={run / 'munged.seed'}"])
        test = ["munge", "-S", str(run / "munge.socket"), "-n"]
        self._until(
            lambda: subprocess.run(test, capture_output=True, env=self.environment).returncode == 0,
            10,
            "munged does not answer",
        )

    def _launch_node(self, node: str) -> None:
        address, gateway = address_of(self.port, self.nodes.index(node)), f"{prefix_of(self.port)}.1"
        words = ["unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--uts", "--mount", "--net", "--mount-proc"]
        script = str(self.folder / "etc" / "node.sh")
        self._launch(f"slurmd-{node}", [*words, "bash", script, str(self.folder), node, address, gateway])

    def _connect_node(self, node: str) -> None:
        """Lay the cable from the bridge into the node; slurmd starts once the bridge forwards, else it waits 4 s."""
        process, own = self._daemons[f"slurmd-{node}"], Path("/proc/self/ns/net").readlink()
        namespace = Path(f"/proc/{process.pid}/ns/net")
        self._until(lambda: namespace.readlink() != own, 10, f"{node} has no network of its own")
        cable = self._cable(node)
        self._ip("link", "add", cable, "type", "veth", "peer", "name", "ms0", "netns", str(process.pid))
        self._ip("link", "set", cable, "master", self._bridge, "up")
        state = Path(f"/sys/class/net/{self._bridge}/brif/{cable}/state")
        self._until(lambda: state.read_text().strip() == "3", 10, f"no cable to {node}")
        (self.folder / "run" / f"{node}.go").touch()

    def _launch(self, name: str, words: list[str]) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                env=self.environment,
            )

    def _kill(self, name: str) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is None:
            return
        # A node's first process is the child of unshare: with it the kernel kills all others of that namespace, and
        # unshare ends only when they are gone.
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children")
        with contextlib.suppress(OSError):
            for child in children.read_text().split() if name.startswith("slurmd-") else ():
                os.kill(int(child), signal.SIGKILL)
        try:
            daemon.wait(5 if name.startswith("slurmd-") else 0)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _controller_listens(self) -> bool:
        with socket.socket() as client:
            client.settimeout(1)
            return client.connect_ex((f"{prefix_of(self.port)}.1", self.port)) == 0

    def _wait_for_nodes(self) -> None:
        """Until every node that runs is known to Slurm as usable; waits for those only."""

        def settled() -> bool:
            try:
                lines = self.run("sinfo", "-h", "-N", "-o", "%N %T", timeout=40).split("\n")
            except (RuntimeError, subprocess.TimeoutExpired):
                return False
            states = dict(line.split() for line in lines if line)
            usable = ("idle", "mixed", "allocated", "completing", "reserved", "drained", "draining")
            return all(states.get(node, "") in usable for node in self.nodes if self.is_up(node))

        self._until(settled, 60, "nodes did not come up")

    def _until(self, condition: Callable[[], bool], seconds: float, complaint: str) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise RuntimeError(f"{complaint} after {seconds} s\n{self.logs()}")
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if dead:
                raise RuntimeError(f"{', '.join(dead)} ended by itself\n{self.logs()}")
            time.sleep(0.02)

    def _ip(self, *words: str, check: bool = True) -> bool:
        result = subprocess.run(["ip", *words], capture_output=True, text=True, env={"PATH": search_path()})
        if check and result.returncode != 0:
            raise RuntimeError(f"ip {' '.join(words)}: {result.stderr}")
        return result.returncode == 0
