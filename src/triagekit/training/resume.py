"""Where a run stands, read from a checkpoint's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from triagekit.training.checkpoints import checkpoint_step
from triagekit.training.ranks import Ranks
from triagekit.training.settings import TrainSettings
from triagekit.training.stopping import stops_early

TRAINER_STATE = "trainer_state.json"


def read_trainer_state(folder: Path) -> dict[str, Any]:
    """The counters and measurements that the Trainer keeps."""
    return dict(json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8")))


def best_step(folder: Path) -> int | None:
    """Step of the best weights until this checkpoint; None before the first measurement."""
    return read_trainer_state(folder).get("best_global_step") or None


def continue_at(checkpoint: Path | None) -> int:
    """Steps that are done."""
    return checkpoint_step(checkpoint) if checkpoint is not None else 0


def has_reached_its_end(checkpoint: Path, settings: TrainSettings, steps: int) -> bool:
    """Whether no step is left: all are done, or the measurements had ended the run before it was killed."""
    state = read_trainer_state(checkpoint)
    return continue_at(checkpoint) >= steps or stops_early(settings.evaluation, state["log_history"])


def describe_move(checkpoint: Path, ranks: Ranks) -> str:
    """What changes when a checkpoint of one number of processes goes on with another; "" when none does."""
    from triagekit.training.checkpoint_state import load_counters

    before = load_counters(checkpoint)["world"]
    if before == ranks.size:
        return ""
    return (
        f" It was made by {before} process{'es' if before > 1 else ''}, now there {'are' if ranks.size > 1 else 'is'} "
        f"{ranks.size}: weights, optimizer, schedule and row order go on as they were; dropout draws other numbers."
    )
