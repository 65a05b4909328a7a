"""The child process that imports what the command itself must not: started early, read late, never waited for long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

PATIENCE = 300.0
"""Seconds for all trials together; a cold import of torch from a network file system takes a minute or two."""


class Trials:
    """Trials under way. `results()` waits for them and gives one answer a name, see `child.py`."""

    def __init__(self, names: Sequence[str], patience: float = PATIENCE) -> None:
        self._waiting = list(names)
        self._end = time.monotonic() + patience
        self._patience = patience
        self._answers: dict[str, dict[str, Any]] = {}
        self._process: subprocess.Popen[str] | None = None
        self._start()

    def results(self) -> dict[str, dict[str, Any]]:
        """{name: {"ok", …}}; a trial that killed its process, or was not done in time, is not ok and says so."""
        while self._process is not None:
            self._collect()
            self._start()
        return self._answers

    def _start(self) -> None:
        self._process = None
        if not self._waiting:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", "triagekit.cluster.doctor.child", *self._waiting],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | {"HF_HUB_OFFLINE": "1", "DS_BUILD_OPS": "0"},
        )

    def _collect(self) -> None:
        assert self._process is not None
        try:
            out, noise = self._process.communicate(timeout=max(0.1, self._end - time.monotonic()))
            ended = _ending(self._process.returncode, noise)
            late = False
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, _ = self._process.communicate()
            ended = f"no answer within {self._patience:.0f} s"
            late = True
        for line in out.splitlines():
            answer = json.loads(line)
            self._answers[answer["trial"]] = answer
        self._waiting = [name for name in self._waiting if name not in self._answers]
        if self._waiting:
            # The first unanswered trial is the one that was running; those behind it get a process of their own.
            blamed = self._waiting if late else self._waiting[:1]
            for name in blamed:
                self._answers[name] = {"trial": name, "ok": False, "error": ended, "late": late}
            self._waiting = self._waiting[len(blamed) :]


def _ending(code: int, noise: str) -> str:
    lines = [line.strip() for line in noise.splitlines() if line.strip()]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"its process {how}{': ' + lines[-1] if lines else ''}"
