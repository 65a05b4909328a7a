"""Being asked to stop: a batch system's warning ends the job between two shards, never inside one that can be finished."""

from __future__ import annotations

import signal

from triagekit.signals import SignalNotes

PATIENCE = {signal.SIGTERM: 10.0, signal.SIGUSR2: 60.0}
"""Seconds that shards under way may still take: schedulers kill some 30 s after TERM, and USR2 is asked for earlier."""


class ScoringInterrupted(Exception):
    """A signal ended the job between two shards. Not an error: the same call scores the shards that are missing."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        name = signal.Signals(signal_number).name
        super().__init__(f"{name}: no more shards are taken, finished parts are kept. The same command goes on.")


class StopRequest(SignalNotes):
    """Turns SIGTERM and SIGUSR2 into a wish that the pool grants.

    Entered after Ray is connected, because Ray installs a SIGTERM handler of its own then.
    """

    def __init__(self) -> None:
        super().__init__(PATIENCE)

    @property
    def patience(self) -> float:
        """Seconds left to shards under way, from the moment of the signal."""
        return PATIENCE[signal.Signals(self.signal_number)] if self.signal_number else 0.0
