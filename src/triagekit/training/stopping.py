"""When a run ends before its planned steps, told from the measurements alone, so that a resumed run decides alike."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from triagekit.training.settings import EvaluationSettings

if TYPE_CHECKING:
    from triagekit.training.process_group import ProcessGroup

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
        where = f"after step {step} of {steps}, checkpoint written" if step else "before the first step"
        super().__init__(f"{name}: stopped {where}. The same command goes on.")


class StopRequest:
    """Turns Ctrl-C, SIGTERM and SIGUSR2 into a wish that the training loop grants at the next step boundary.

    `patient` False: a second Ctrl-C ends the process at once, and the first one too while `in_loop` is False. Repeats of other signals change nothing, since batch
    systems and launchers send them more than once; nor does any repeat with `patient` True, in a process among several.
    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self, patient: bool = False) -> None:
        self.signal_number: int | None = None
        self.in_loop = False
        self._patient = patient
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

    def agree(self, group: ProcessGroup) -> int:
        """The signal that any process has got, so that all end after the same step; 0 for none. Collective."""
        number = int(group.reduce([self.signal_number or 0], "max")[0])
        self.signal_number = number or None
        return number

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        if number == signal.SIGINT and not self._patient:
            if not self.in_loop:
                raise KeyboardInterrupt
            signal.signal(number, self._previous[number])
