"""Signals as notes: the handler only writes down what came, and whoever runs the loop looks at it between two steps."""

from __future__ import annotations

import signal
from collections.abc import Collection
from types import FrameType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
"""What asks for a checkpoint and an end: a batch system's warning, its last word, and Ctrl-C."""


class SignalNotes:
    """Notes which of some signals came while it was entered; then the handlers that were there before are put back.

    Outside the main thread, where Python allows no handlers, it notes nothing. Repeats change nothing: batch systems
    and launchers send the same signal more than once.
    """

    def __init__(self, numbers: Collection[signal.Signals]) -> None:
        self.signal_number: int | None = None
        """The first one that came."""
        self._numbers = tuple(numbers)
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            for number in self._numbers:
                self._previous[number] = signal.signal(number, self.note)
        except ValueError:
            self._previous.clear()
        return self

    def __exit__(self, *unused: object) -> None:
        for number in list(self._previous):
            self.give_back(number)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler; what overrides it must stay as short as this."""
        self.signal_number = self.signal_number or number

    def give_back(self, number: int) -> None:
        """Let a signal do again what it did before."""
        signal.signal(number, self._previous.pop(number))
