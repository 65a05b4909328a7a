"""OpenVINO's side of the comparison: a process in its own environment that stays, and answers one turn after the other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peers.engines import PEERS, Engine, EngineFailed, process_environment

ENGINE = Engine("openvino_layers.py", "openvino", ())
CASES = {
    "openvino": "shared-fp32-2",
    "openvino, one pass": "shared-fp32-1",
    "openvino, prefix copied": "copied-fp32-2",
    "openvino, int8": "shared-int8-2",
    "openvino, int8, prefix copied": "copied-int8-2",
}


class OpenVinoCase:
    """One case of the process: see kernel_cases.passes.Case."""

    def __init__(self, process: subprocess.Popen[str], name: str) -> None:
        self._process, self._name = process, name

    def begin(self, width: int) -> dict[str, float]:
        """See Case."""
        found = self._ask(width, 1)
        return {name: found[name] for name in ("difference", "compile_seconds")}

    def run(self, width: int, times: int) -> dict[str, float]:
        """See Case."""
        return self._ask(width, times)

    def _ask(self, width: int, times: int) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"case": self._name, "width": width, "times": times}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise EngineFailed(f"OpenVINO ended at {self._name}, {width} tokens a row; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def openvino_cases(folder: str, batch: Path, threads: int) -> Iterator[dict[str, OpenVinoCase]]:
    """Cases by name, inside the block."""
    words = [ENGINE.python, PEERS / ENGINE.script, folder, batch, threads]
    process = subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=process_environment(ENGINE),
    )
    try:
        yield {name: OpenVinoCase(process, case) for name, case in CASES.items()}
    finally:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()  # it ends when nothing more comes
        process.wait()
        process.stdout.close()
