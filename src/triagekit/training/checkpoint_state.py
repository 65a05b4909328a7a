"""What a checkpoint holds, and putting it back: trained weights, optimizer, schedule, random generators, counters.

Collecting may need all processes; writing needs none of the others. So a failed write never leaves another process
waiting in an exchange that does not come.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import nn

from triagekit.errors import TriageError
from triagekit.modeling.adapters import adapter_state, load_adapter_state
from triagekit.training import optimizer_state, zero
from triagekit.training.lora_plus import RATE_RATIO
from triagekit.training.state_codec import has_state, load_state, save_state

if TYPE_CHECKING:
    from triagekit.training.trainer import TriageTrainer

WEIGHTS = "weights"
OPTIMIZER = "optimizer"
SCHEDULE = "schedule"
SCALER = "scaler"
COUNTERS = "counters"


def rank_name(rank: int) -> str:
    """Name of the file of what only process `rank` knows: its random generators and its part of the next log line."""
    return f"rank-{rank}"


def trained_weights(trainer: TriageTrainer) -> dict[str, torch.Tensor]:
    """The trained weights, whole, in the first process (elsewhere {} where they are sharded). Collective."""
    weights = adapter_state(trainer.network)
    if not trainer.is_sharded:
        return weights
    gathered = zero.gathered_weights(trainer.network, keep=trainer.group.main)
    # PiSSA's start is no weight of the model and so is never sharded.
    return {name: gathered.get(name, tensor) for name, tensor in weights.items()} if gathered else {}


def collect(trainer: TriageTrainer) -> dict[str, Any]:
    """Everything that the next step depends on, by file name; in other processes than the first their own part only.
    Collective."""
    group = trainer.group
    weights = trained_weights(trainer)
    optimizer = collect_optimizer(trainer)
    counters = trainer.measured.totals()
    own = {rank_name(group.rank): {"random": random_state(), "window": trainer.measured.window()}}
    if not group.main:
        return own
    schedule: Any = trainer.lr_scheduler
    state = {
        WEIGHTS: weights,
        OPTIMIZER: optimizer,
        SCHEDULE: {"steps": schedule.last_epoch},
        COUNTERS: counters,
        **own,
    }
    scaler = trainer.accelerator.scaler
    if scaler is not None:
        state[SCALER] = scaler.state_dict()
    return state


def collect_optimizer(trainer: TriageTrainer) -> optimizer_state.State:
    """The optimizer's state, whole, by the names of the weights. Collective."""
    if trainer.group.ranks.deepspeed:
        wrapped: Any = trainer.optimizer
        names, main = trainer.optimizer_names, trainer.group.main
        return zero.gathered_state(wrapped.optimizer, trainer.network, names, keep=main)
    return optimizer_state.plain_state(trainer.optimizer, trainer.network) if trainer.group.main else {}


def write(state: Mapping[str, Any], folder: Path) -> None:
    """Write what collect() gave into a checkpoint's folder."""
    for name, value in state.items():
        save_state(folder, name, value)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Put the trained weights of a checkpoint into `model`, in place. Raises TriageError when they do not fit it."""
    put_weights(model, load_state(folder, WEIGHTS))


@torch.no_grad()
def put_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Put trained weights into `model`, in place. Raises TriageError when they do not fit it."""
    load_adapter_state(model, weights)


def load_optimizer(trainer: TriageTrainer, folder: Path) -> str | None:
    """Put optimizer and schedule back, however many processes made the checkpoint. Returns why the optimizer had to
    start anew, or None. Collective."""
    schedule: Any = trainer.lr_scheduler
    wrapped: Any = trainer.optimizer
    state = load_state(folder, OPTIMIZER)
    reason = None
    try:
        if trainer.group.ranks.deepspeed:
            zero.load_gathered_state(wrapped.optimizer, trainer.network, trainer.optimizer_names, state)
        else:
            optimizer_state.load_plain_state(trainer.optimizer, trainer.network, state)
    except TriageError as error:
        # The same files and the same model everywhere: every process comes here, or none.
        reason = str(error)
    move_schedule(schedule, wrapped, load_state(folder, SCHEDULE)["steps"])
    return reason


def move_schedule(schedule: Any, optimizer: Any, steps: int) -> None:
    """Be where the schedule was after `steps` optimizer steps.

    Only the step is stored: how many groups there are depends on who keeps the optimizer.
    """
    schedule.load_state_dict({**schedule.state_dict(), "last_epoch": steps, "_step_count": steps + 1})
    rate = schedule.base_lrs[0] * schedule.lr_lambdas[0](steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_RATIO, 1)
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]


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
        # Of this process's own card; the others belong to its neighbours.
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo everything that was drawn since random_state()."""
    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def load_counters(folder: Path) -> dict[str, Any]:
    """The trainer's counters of a checkpoint."""
    return dict(load_state(folder, COUNTERS))


def load_rank(folder: Path, rank: int) -> dict[str, Any] | None:
    """What process `rank` had for itself ("random", "window"); None if the checkpoint was made by fewer processes."""
    return dict(load_state(folder, rank_name(rank))) if has_state(folder, rank_name(rank)) else None
