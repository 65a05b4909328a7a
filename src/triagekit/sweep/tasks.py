"""Commands side by side on this machine, each with its share of cores and cards, its own log, and a clean end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from triagekit.signals import STOP_SIGNALS, SignalNotes

_LOOK_SECONDS = 0.2
_REPEAT_SECONDS = 5.0
_SIGNAL_EXIT = 128


@dataclass(frozen=True)
class Task:
    """One `triage` command. Its output goes to `log`, added to what is there."""

    name: str
    words: tuple[str, ...]
    log: Path


@dataclass
class _Started:
    task: Task
    slot: int
    process: subprocess.Popen[bytes]


class TasksStopped(Exception):
    """A signal ended the work; all tasks have ended too, and the same command goes on."""

    def __init__(self, number: int) -> None:
        self.signal_number = number
        super().__init__(f"{signal.Signals(number).name}: stopped. The same command goes on.")

    @property
    def exit_code(self) -> int:
        """As shells tell it."""
        return _SIGNAL_EXIT + self.signal_number


def run_tasks(tasks: Sequence[Task], at_once: int, ended: Callable[[Task, int], None]) -> None:
    """Run all tasks, at most `at_once` at a time; `ended` is told each one's exit code as it ends.

    A failed task stops no other. Ctrl-C, SIGTERM and SIGUSR2 are passed on, so that training writes its checkpoints;
    when all have ended, TasksStopped is raised.
    """
    waiting, running = list(tasks), list[_Started]()
    with SignalNotes(STOP_SIGNALS) as notes:
        told = 0.0
        while running or (waiting and not notes.signal_number):
            while waiting and len(running) < at_once and not notes.signal_number:
                free = next(slot for slot in range(at_once) if slot not in {one.slot for one in running})
                task = waiting.pop(0)
                running.append(_Started(task, free, _start(task, free, at_once)))
            if notes.signal_number and time.monotonic() - told > _REPEAT_SECONDS:
                # Repeated: a process that is just starting may have lost the first one.
                told = time.monotonic()
                for one in running:
                    one.process.send_signal(notes.signal_number)
            time.sleep(_LOOK_SECONDS)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                if not notes.signal_number:
                    ended(one.task, one.process.returncode)
    if notes.signal_number:
        raise TasksStopped(notes.signal_number)


def _start(task: Task, slot: int, at_once: int) -> subprocess.Popen[bytes]:
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as log:
        # A session of its own: a Ctrl-C at the terminal reaches this process alone, which passes it on.
        return subprocess.Popen(
            [sys.executable, "-m", "triagekit", *task.words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment_of(slot, at_once),
            start_new_session=True,
        )


def environment_of(slot: int, at_once: int) -> dict[str, str]:
    """The environment of one of `at_once` tasks: an equal share of the cores, and its own cards where there are enough."""
    own = dict(os.environ)
    if at_once == 1:
        return own
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own.setdefault("OMP_NUM_THREADS", str(max(1, cores // at_once)))
    cards = visible_cards()
    if len(cards) >= at_once:
        own["CUDA_VISIBLE_DEVICES"] = ",".join(cards[slot::at_once])
    return own


def visible_cards() -> list[str]:
    """The cards that CUDA shows, as CUDA_VISIBLE_DEVICES names them."""
    from triagekit.hardware.devices import detect_devices

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [card for card in named.split(",") if card.strip()]
    return [str(number) for number, _ in enumerate(device for device in detect_devices() if device.kind == "cuda")]
