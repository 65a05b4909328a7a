"""The climbing learning rate of the range test, and the loss of each of its steps."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from triagekit.training.lora_plus import RATE_RATIO
from triagekit.training.measurements import Measurements

_PAST = 0.8
"""Weight of the past in the running mean."""


class RateClimb(TrainerCallback):
    """Sets the rate before each step, from `lowest` by one factor to `highest` in `steps`; notes the step's loss, and ends
    the training when the running mean of the loss is `broken_out` times its best, or no number."""

    def __init__(self, measured: Measurements, lowest: float, highest: float, steps: int, broken_out: float) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._measured = measured
        self._lowest = lowest
        self._factor = (highest / lowest) ** (1 / (steps - 1))
        self._broken_out = broken_out
        self._mean: float | None = None
        self._best = math.inf

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Here, because the schedule sets the rate after each step."""
        for group in others["optimizer"].param_groups:
            group["lr"] = self._lowest * self._factor**state.global_step * group.get(RATE_RATIO, 1)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Taking the line leaves none for the Trainer's own logging, which would refuse a diverged loss."""
        loss = self._measured.line()["loss"]
        if not math.isfinite(loss):
            control.should_training_stop = True
            return
        self.rates.append(self._lowest * self._factor ** (state.global_step - 1))
        self.losses.append(loss)
        self._mean = loss if self._mean is None else _PAST * self._mean + (1 - _PAST) * loss
        self._best = min(self._best, self._mean)
        if self._mean > self._broken_out * self._best:
            control.should_training_stop = True
