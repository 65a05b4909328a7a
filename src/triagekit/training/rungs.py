"""A rung put to work: the settings of the same run as they are on other hardware."""

from __future__ import annotations

from typing import Any

from triagekit.errors import TriageError
from triagekit.hardware.ladder import Rung
from triagekit.training.settings import TrainSettings

EVALUATION_ROWS = 2
"""Rows of a validation batch per row of a training batch: without gradients a row's logits take half the memory."""


def micro_batch(effective: int, world: int, wanted: int) -> int:
    """The largest number of rows at once, not above `wanted`, with which `world` processes reach `effective` exactly.

    Raises TriageError when `world` does not divide `effective`: another batch would be another run.
    """
    if effective % world:
        lower = effective // world * world
        near = f"{lower} or {lower + world}" if lower else str(world)
        raise TriageError(f"batch.effective {effective} cannot be shared by {world} processes; nearest valid: {near}.")
    share = effective // world
    return max(rows for rows in range(1, share + 1) if share % rows == 0 and rows <= max(1, wanted))


def accumulation(settings: TrainSettings, world: int) -> int:
    """Micro-batches that each process adds up before an optimizer step."""
    return settings.batch.effective // (settings.batch.micro * world)


def apply_rung(settings: TrainSettings, rung: Rung, world: int) -> TrainSettings:
    """The run's settings on `rung` with `world` processes.

    Micro-batch, packing, precision (where the run says auto), a 4-bit base (method qlora), gradient checkpointing and the
    limit on tokens are the rung's; effective batch, steps, seed and everything learnt stay the run's. What the run itself
    asks for (a precision, a quantised base, a shorter limit) is kept.
    Raises TriageError when `world` does not divide the effective batch.
    """
    own: dict[str, Any] = settings.model_dump()
    micro = micro_batch(settings.batch.effective, world, rung.micro_batch or settings.batch.micro)
    own["batch"]["micro"] = micro
    if rung.micro_batch is not None:
        own["batch"]["eval"] = min(settings.batch.eval, EVALUATION_ROWS * max(micro, rung.micro_batch))
    if settings.precision == "auto":
        own["precision"] = rung.precision
    if rung.method == "qlora" and settings.quantization is None:
        own["quantization"] = {}
    if rung.gradient_checkpointing is not None:
        own["gradient_checkpointing"] = rung.gradient_checkpointing
    if rung.packing is not None:
        own["batch"]["packing"] = rung.packing
    if rung.max_length is not None:
        own["prompt"]["max_length"] = min(settings.prompt.max_length, rung.max_length)
    return TrainSettings.model_validate(own)
