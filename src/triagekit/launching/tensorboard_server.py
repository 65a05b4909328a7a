"""TensorBoard over the figures of runs: the installed library in a process of its own, which ends with this one."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from triagekit.errors import Problem, ProblemsError, TriageError, did_you_mean
from triagekit.launching.processes import end_with_parent
from triagekit.signals import SignalNotes
from triagekit.training.run_folder import RunFolder

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"
FIRST_PORT = 6006
PORTS_TRIED = 50
BEGIN_SECONDS = 120.0
"""Until it answers: its imports may come from a busy shared file system."""
END_SECONDS = 5.0
LINES_SHOWN = 10


def serve(places: Sequence[Path | str], port: int | None, bind_all: bool, say: Callable[[str], None]) -> None:
    """Show the runs at `places` (runs, or folders of runs) until Ctrl-C or SIGTERM; the address is said once it answers.

    `port` None takes 6006 or the next free one. Raises TriageError, or ProblemsError with every wrong place, for what
    the user can mend.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise TriageError(
            "TensorBoard is not installed: pip install tensorboard. The same figures stand in each run's metrics.jsonl."
        )
    found = find_figures(places)
    host = EVERYWHERE if bind_all else LOOPBACK
    chosen = free_port(host, port)
    with (
        SignalNotes((signal.SIGINT, signal.SIGTERM)) as signals,
        log_folder(places, found) as folder,
        tempfile.TemporaryFile() as said,
    ):
        words = [
            sys.executable,
            "-m",
            "tensorboard.main",
            "--logdir",
            str(folder),
            "--port",
            str(chosen),
            "--host",
            host,
        ]
        # In a session of its own, so that Ctrl-C comes here alone, and all that it starts can be ended together.
        process = subprocess.Popen(
            [*words, "--reload_interval", "10"],
            stdout=said,
            stderr=said,
            start_new_session=True,
            preexec_fn=lambda: end_with_parent(None),
        )
        try:
            if _answers(process, chosen, lambda: signals.signal_number is not None):
                for line in describe(len(found), chosen, bind_all, os.environ):
                    say(line)
            while signals.signal_number is None and process.poll() is None:
                time.sleep(0.1)
        finally:
            _end(process)
        said.seek(0)
        last = said.read().decode("utf-8", "replace").strip().splitlines()[-LINES_SHOWN:]
    if signals.signal_number is None:
        raise TriageError(
            "\n".join([f"TensorBoard has ended by itself, exit code {process.returncode}. It said:", *last])
        )


def find_figures(places: Sequence[Path | str]) -> dict[str, Path]:
    """Name → TensorBoard folder of every run at `places`. Raises ProblemsError for each place without any."""
    found: dict[str, Path] = {}
    problems = []
    for place in map(Path, places):
        runs = _runs_at(place)
        own = [run for run in runs if run.tensorboard.is_dir()]
        if not runs:
            near = did_you_mean(place.name, [run.folder.name for run in _runs_at(place.parent)])
            problems.append(Problem(str(place), "is neither a run nor a folder of runs.", near))
        elif not own:
            text = "has no TensorBoard files: it has not begun to train, or TensorBoard was not installed then."
            problems.append(Problem(str(place), text, "metrics.jsonl holds the same figures."))
        for run in own:
            name = run.name if run.name not in found else f"{run.folder.resolve().parent.name}-{run.name}"
            found[name] = run.tensorboard.resolve()
    if problems:
        raise ProblemsError("TensorBoard has nothing to show here:", problems)
    return found


def free_port(host: str, port: int | None) -> int:
    """`port`, or the first free one from 6006 on. Raises TriageError when it is, or all of them are, in use."""
    for candidate in range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else (port,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError as error:
                reason = error.strerror
                continue
            return candidate
    if port is None:
        raise TriageError(f"No port from {FIRST_PORT} to {FIRST_PORT + PORTS_TRIED - 1} is free. Name one: --port N")
    raise TriageError(f"Port {port} cannot be used ({reason}). Leave --port out to take the next free one.")


@contextlib.contextmanager
def log_folder(places: Sequence[Path | str], found: Mapping[str, Path]) -> Iterator[Path]:
    """What TensorBoard is to look at. One folder of runs is taken as it is, so that runs which begin later show up too;
    for anything else a folder of links is made, by which each run has its own name."""
    only = Path(places[0])
    if len(places) == 1 and not (only / "config.yaml").is_file():
        yield only.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="triagekit-tensorboard-") as folder:
        for name, target in found.items():
            (Path(folder) / name).symlink_to(target, target_is_directory=True)
        yield Path(folder)


def describe(runs: int, port: int, bind_all: bool, environment: Mapping[str, str]) -> list[str]:
    """Where to look, from here and from elsewhere."""
    host = platform.node()
    address = f"http://{host if bind_all else LOOPBACK}:{port}/"
    lines = [f"TensorBoard shows {runs} run{'s' if runs != 1 else ''} at {address}  (Ctrl-C ends it)"]
    if bind_all:
        lines.append("Everyone who reaches this machine can see it: it asks for no password.")
    elif "SSH_CONNECTION" in environment or "SLURM_JOB_ID" in environment:
        user = environment.get("USER", "you")
        # The nodes of a cluster are reached through its login node.
        login = environment.get("SLURM_SUBMIT_HOST") if "SLURM_JOB_ID" in environment else None
        jump = f"-J {user}@{login} " if login and login != host else ""
        lines.append(
            f"On your own machine: ssh -N -L {port}:{LOOPBACK}:{port} {jump}{user}@{host}   then open {address}"
        )
    return lines


def _runs_at(place: Path) -> list[RunFolder]:
    if (place / "config.yaml").is_file():
        return [RunFolder(place)]
    if not place.is_dir():
        return []
    return [RunFolder(entry) for entry in sorted(place.iterdir()) if (entry / "config.yaml").is_file()]


def _answers(process: subprocess.Popen[bytes], port: int, given_up: Callable[[], bool]) -> bool:
    until = time.monotonic() + BEGIN_SECONDS
    while process.poll() is None and not given_up():
        try:
            # By the loopback, and by no proxy: some sites set one for every address.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{LOOPBACK}:{port}/data/environment", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            if time.monotonic() > until:
                raise TriageError(f"TensorBoard did not answer on port {port} within {BEGIN_SECONDS:.0f} s.") from None
            time.sleep(0.2)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End TensorBoard and the process by which it reads files; they are in a session of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
            if number == signal.SIGKILL:
                return
