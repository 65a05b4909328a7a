"""When a run ends before its planned steps, told from the measurements alone, so that a resumed run decides alike."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from triagekit.signals import STOP_SIGNALS, SignalNotes
from triagekit.training.settings import EvaluationSettings

if TYPE_CHECKING:
    from triagekit.training.process_group import ProcessGroup


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
        where = f"after step {step} of {steps}, checkpoint written" if step else "before the first step"
        super().__init__(f"{name}: stopped {where}. The same command goes on.")


class StopRequest(SignalNotes):
    """Turns Ctrl-C, SIGTERM and SIGUSR2 into a wish that the training loop grants at the next step boundary.

    Among several processes (`patient`) that is all. A process that is alone ends at once at a second Ctrl-C, and at the
    first one too while `in_loop` is False.
    """

    def __init__(self, patient: bool = False) -> None:
        super().__init__(STOP_SIGNALS)
        self.in_loop = False
        self._patient = patient

    def agree(self, group: ProcessGroup) -> int:
        """The signal that any process has got, so that all end after the same step; 0 for none. Collective."""
        number = int(group.reduce([self.signal_number or 0], "max")[0])
        self.signal_number = number or None
        return number

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        super().note(number, frame)
        if number == signal.SIGINT and not self._patient:
            if not self.in_loop:
                raise KeyboardInterrupt
            self.give_back(number)
