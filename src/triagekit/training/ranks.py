"""Which of how many processes this is, and how they are to share the work; read from the environment, without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from triagekit.errors import Problem, ProblemsError, TriageError
from triagekit.hardware.ladder import Rung

Sharding = Literal["none", "ddp", "zero2", "zero3"]

RUNG = "TRIAGEKIT_RUNG"
"""Environment variable: JSON of {"rung": name, "passed_over": [...], "definition": {...}}."""
ATTEMPT = "TRIAGEKIT_ATTEMPT"
"""Environment variable: which start of a batch job this is."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run.

    `rank` counts over all nodes, `local_rank` on this one; `size` is the number of all. `rung`: the one in force, None
    when the run was started without a ladder; `passed_over`: why each rung above it was not taken.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    sharding: Sharding = "none"
    rung: Rung | None = None
    passed_over: tuple[str, ...] = ()
    deepspeed_file: str | None = None

    @property
    def main(self) -> bool:
        """Whether this process writes the files and talks to the person."""
        return self.rank == 0

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed shards the optimizer."""
        return self.sharding in {"zero2", "zero3"}

    @property
    def grouped(self) -> bool:
        """Whether there is a process group to form."""
        return self.size > 1 or self.deepspeed

    def describe(self) -> dict[str, Any]:
        """For plan.json and environment.json."""
        return {
            "rung": self.rung.name if self.rung else None,
            "passed_over": list(self.passed_over),
            "world": self.size,
            "sharding": self.sharding,
        }


def ranks_from_environment(environment: Mapping[str, str] | None = None) -> Ranks:
    """Read what torchrun, accelerate launch and triagekit's launcher have set.

    Raises ProblemsError when launcher and rung disagree, since each of these would train something else without a word;
    TriageError when a variable is damaged.
    """
    values = os.environ if environment is None else environment
    rung, passed_over = _rung_in_force(values)
    numbers = {name: _number(values, name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    size = numbers["WORLD_SIZE"] or 1
    rank = numbers["RANK"] or 0
    local = numbers["LOCAL_RANK"] if numbers["LOCAL_RANK"] is not None else rank
    sharding, file = _sharding(values, size, rung)
    problems = []
    if not 0 <= rank < size:
        problems.append(Problem("RANK", f"is {rank}, but WORLD_SIZE is {size}."))
    if _is_true(values, "ACCELERATE_USE_FSDP"):
        problems.append(Problem("ACCELERATE_USE_FSDP", "FSDP is not supported.", "Take DDP, ZeRO-2 or ZeRO-3."))
    if rung is not None and rung.world != size:
        problems.append(Problem("world", f"rung {rung.name} needs {rung.world} processes, {size} were started."))
    if rung is not None and rung.sharding != sharding:
        problems.append(Problem("sharding", f"rung {rung.name} asks for {rung.sharding}, the launcher for {sharding}."))
    if problems:
        raise ProblemsError("The processes were not started as the run needs them:", problems)
    return Ranks(rank, local, size, sharding, rung, passed_over, file)


def _rung_in_force(values: Mapping[str, str]) -> tuple[Rung | None, tuple[str, ...]]:
    text = values.get(RUNG)
    if not text:
        return None, ()
    try:
        record = json.loads(text)
        return Rung.model_validate(record["definition"]), tuple(record["passed_over"])
    except (ValueError, KeyError, TypeError) as error:
        raise TriageError(f"{RUNG} is not what the launcher writes ({error}). Unset it.") from None


def _sharding(values: Mapping[str, str], size: int, rung: Rung | None) -> tuple[Sharding, str | None]:
    if _is_true(values, "ACCELERATE_USE_DEEPSPEED"):
        file = values.get("ACCELERATE_DEEPSPEED_CONFIG_FILE") or None
        stage = _stage(Path(file)) if file and file != "none" else values.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        if str(stage) not in {"2", "3"}:
            raise TriageError(f"DeepSpeed ZeRO stage {stage} is not supported; take zero_stage 2 or 3, or plain DDP.")
        return ("zero2" if str(stage) == "2" else "zero3"), (file if file != "none" else None)
    if rung is not None and rung.sharding in {"zero2", "zero3"}:
        # Under torchrun, which knows nothing of DeepSpeed.
        return rung.sharding, None
    return ("ddp" if size > 1 else "none"), None


def _stage(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["zero_optimization"]["stage"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TriageError(f"deepspeed_config_file {path} names no zero_optimization.stage: {error}") from None


def _is_true(values: Mapping[str, str], name: str) -> bool:
    return values.get(name, "").strip().lower() in {"1", "true", "yes"}


def _number(values: Mapping[str, str], name: str) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise TriageError(f"{name} is '{text}', not a number. It is set by torchrun or accelerate launch.") from None
