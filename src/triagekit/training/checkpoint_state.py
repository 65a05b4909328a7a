"""What a checkpoint holds, and putting it back: trained weights, optimizer, schedule, random generators, counters."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import nn

from triagekit.modeling.adapters import adapter_state, load_adapter_state
from triagekit.training.state_codec import has_state, load_state, save_state

if TYPE_CHECKING:
    from triagekit.training.trainer import TriageTrainer

WEIGHTS = "weights"
OPTIMIZER = "optimizer"
SCHEDULE = "schedule"
SCALER = "scaler"
RANDOM = "random_state"
COUNTERS = "counters"


def save_weights(model: nn.Module, folder: Path) -> None:
    """Write the trained weights, bit for bit."""
    save_state(folder, WEIGHTS, adapter_state(model))


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path) -> None:
    """Put the trained weights of a checkpoint into `model`, in place. Raises TriageError when they do not fit it."""
    load_adapter_state(model, load_state(folder, WEIGHTS))


def save_training_state(trainer: TriageTrainer, folder: Path) -> None:
    """Write all but the weights that the next step depends on."""
    optimizer: Any = trainer.optimizer
    schedule: Any = trainer.lr_scheduler
    save_state(folder, OPTIMIZER, optimizer.state_dict())
    save_state(folder, SCHEDULE, schedule.state_dict())
    scaler = trainer.accelerator.scaler
    if scaler is not None:
        save_state(folder, SCALER, scaler.state_dict())
    save_state(folder, RANDOM, random_state())
    save_state(folder, COUNTERS, trainer.counters())


def load_optimizer(trainer: TriageTrainer, folder: Path) -> None:
    """Put optimizer and schedule back."""
    optimizer: Any = trainer.optimizer
    schedule: Any = trainer.lr_scheduler
    optimizer.load_state_dict(load_state(folder, OPTIMIZER))
    schedule.load_state_dict(load_state(folder, SCHEDULE))


def load_scaler(trainer: TriageTrainer, folder: Path) -> None:
    """Put the float16 loss scale back, where there is one."""
    if trainer.accelerator.scaler is not None and has_state(folder, SCALER):
        trainer.accelerator.scaler.load_state_dict(load_state(folder, SCALER))


def random_state() -> dict[str, Any]:
    """State of every random generator that training draws from."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo everything that was drawn since random_state()."""
    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state.get("cuda", [])) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def load_counters(folder: Path) -> dict[str, Any]:
    """The trainer's counters of a checkpoint."""
    return dict(load_state(folder, COUNTERS))


def load_random_state(folder: Path) -> None:
    """Put the random generators where they were."""
    restore_random_state(load_state(folder, RANDOM))
