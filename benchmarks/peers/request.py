"""What the scripts of all engines share: reading the task, the clock, the answer.

Runs in environments without this project, so it needs the standard library and `tokenizers` alone. A script is called as
`python peers/ENGINE.py TASK.json SETTINGS`, where SETTINGS is JSON such as {"batch": 64, "schema": "grammar"}, and prints
one line of JSON last.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WARM_UP = 64
"""Tickets before the clock starts: every engine fills its caches and makes its kernels, which an archive pays for once."""


@dataclass(frozen=True)
class Task:
    """One model, its tickets and its schema. Prompts are `prefix`, the same for all, and the ticket's `own` token ids."""

    runs: dict[str, str]
    """Folders of trained runs (adapter on its base): `json`, and those trained alike that engines ask for (see prepare.py)."""
    model: str
    """Plain Hugging Face folder of the merged model, in `precision`."""
    texts: list[str]
    prefix: list[int]
    own: list[list[int]]
    end_id: int
    pad_id: int
    max_new_tokens: int
    schemas: dict[str, Any]
    """The schema in the forms that engines take: name → JSON schema as a dictionary, or EBNF as a text."""
    threads: int
    device: str = "cpu"
    precision: str = "fp32"

    @property
    def prompts(self) -> list[list[int]]:
        """Whole prompts."""
        return [[*self.prefix, *own] for own in self.own]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and answer."""
        return len(self.prefix) + max(map(len, self.own)) + self.max_new_tokens


@dataclass(frozen=True)
class Answer:
    """What an engine wrote for each ticket: token ids up to the end of turn, or texts where it renders them itself."""

    ids: list[list[int]] | None = None
    texts: list[str] | None = None


def read_request() -> tuple[Task, dict[str, Any]]:
    """Task and settings from the command line."""
    file, settings = sys.argv[1:3]
    return Task(**json.loads(Path(file).read_text(encoding="utf-8"))), json.loads(settings)


def answer(task: Task, generate: Callable[[list[int]], Answer], facts: Callable[[Answer], dict[str, Any]]) -> None:
    """Warm up, generate for all tickets, print. `generate` takes the numbers of the tickets it is to do.

    Turning token ids into text is not in the time. `facts` adds figures, after the clock has stopped.
    """
    generate(list(range(WARM_UP))[: len(task.texts)])
    cpu, wall = time.process_time(), time.perf_counter()
    found = generate(list(range(len(task.texts))))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = peak_memory_bytes()
    texts = found.texts if found.texts is not None else _texts(task, found.ids or [])
    line = {"seconds": wall, "cpu_seconds": cpu, "peak_memory_bytes": peak, "texts": texts, **facts(found)}
    print(json.dumps(line), flush=True)


def written_tokens(found: Answer) -> dict[str, Any]:
    """Tokens that an engine wrote, the end of turn not among them."""
    return {"written_tokens": sum(map(len, found.ids or []))}


def peak_memory_bytes() -> int:
    """Of this process alone: getrusage would count the parent's memory at the time of the fork too. On a GPU, of what
    PyTorch took there."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def until_end(ids: list[int], end_id: int) -> list[int]:
    """`ids` before the end of turn."""
    return ids[: ids.index(end_id)] if end_id in ids else ids


def _texts(task: Task, rows: list[list[int]]) -> list[str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(task.model) / "tokenizer.json"))
    return [tokenizer.decode(row, skip_special_tokens=False) for row in rows]
