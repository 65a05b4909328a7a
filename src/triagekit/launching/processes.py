"""Child processes that never outlive their parent and that leave signals to it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from triagekit.signals import STOP_SIGNALS

LAUNCHER_PID = "TRIAGEKIT_LAUNCHER_PID"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def start_child(words: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `words` in a session of its own, deaf to the stop signals, killed by the kernel when this process ends.

    A signal to this process's group (Ctrl-C) or to every process of a Slurm step therefore ends no process between
    this one and the ranks; that the signals are ignored is passed on through exec.
    """
    return subprocess.Popen(
        list(words),
        env={**environment, LAUNCHER_PID: str(os.getpid())},
        start_new_session=True,
        preexec_fn=_before_exec,
    )


def end_with_parent(parent: int | None) -> None:
    """Have the kernel kill this process when its parent ends, however that ends; Linux only.

    `parent` is the process id it should have: one that ended before this call would go unnoticed otherwise.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if parent is not None and os.getppid() != parent:
            os._exit(1)


def children_of(parent: int) -> list[int]:
    """Process ids whose parent is `parent`, read from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has just ended
        # The name, in parentheses, may hold anything; state and parent follow the last one.
        state, its_parent = status.rpartition(")")[2].split()[:2]
        if int(its_parent) == parent and state != "Z":
            found.append(int(entry.name))
    return sorted(found)


def send(number: int, processes: Sequence[int]) -> None:
    """Send a signal to processes, some of which may have ended."""
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue


def _before_exec() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(None)
