"""When a run ends before its planned steps, told from the measurements alone, so that a resumed run decides alike."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self

from triagekit.training.settings import EvaluationSettings

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


def evaluations_without_improvement(values: Sequence[float], threshold: float, greater_is_better: bool) -> int:
    """How many of the last measurements in a row are no better than the best before them by more than `threshold`."""
    best: float | None = None
    count = 0
    for value in values:
        gain = None if best is None else (value - best if greater_is_better else best - value)
        if gain is None or gain > threshold:
            count = 0
        else:
            count += 1
        if best is None or (value > best if greater_is_better else value < best):
            best = value
    return count


def stops_early(settings: EvaluationSettings, log_history: Sequence[dict[str, Any]]) -> bool:
    """Whether the validation measurements so far end the run."""
    if settings.early_stopping is None:
        return False
    key = f"eval_{settings.best_metric}"
    values = [entry[key] for entry in log_history if key in entry]
    waited = evaluations_without_improvement(values, settings.early_stopping.threshold, settings.best_metric != "loss")
    return waited >= settings.early_stopping.patience


class TrainingInterrupted(Exception):
    """A signal ended the run at a step boundary, with a checkpoint on disk. Not an error: the same call goes on."""

    def __init__(self, signal_number: int, step: int, steps: int) -> None:
        self.signal_number = signal_number
        self.step = step
        self.steps = steps
        name = signal.Signals(signal_number).name
        super().__init__(f"{name}: stopped after step {step} of {steps}, checkpoint written. The same command goes on.")


class StopRequest:
    """Turns Ctrl-C, SIGTERM and SIGUSR2 into a wish that the training loop grants at the next step boundary.

    A second signal of the same kind acts as if this were not here (Ctrl-C twice ends at once).
    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        except ValueError:
            self._previous.clear()
        return self

    def __exit__(self, *unused: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        signal.signal(number, self._previous[number])
