"""Stop signals, from the one process that is told to the ranks that can act on them."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from types import FrameType

from triagekit.launching.processes import children_of, send
from triagekit.signals import STOP_SIGNALS, SignalNotes

REPEAT_SECONDS = 2.0
POLL_SECONDS = 0.2
LOOK_SECONDS = 5.0
GRACE_SECONDS = 60.0
"""How long ranks get to notice by themselves that those of another node are gone, and to say what they saw."""


class SignalForwarding(SignalNotes):
    """Notes SIGUSR2, SIGTERM and SIGINT while entered, and passes them on to the children of an agent.

    A rank that is still importing has no handler yet and ignores the signal, so it is sent again until the ranks have
    ended; a rank that has heard it ignores the repeats. A second Ctrl-C ends everything at once.
    """

    def __init__(self) -> None:
        super().__init__(STOP_SIGNALS)
        self.at_once = False
        self._noted: list[int] = []
        self._due = 0.0

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        super().note(number, frame)
        self.at_once = self.at_once or (number == signal.SIGINT and number in self._noted)
        if number not in self._noted:
            self._noted.append(number)
        self._due = 0.0

    def wait_for(
        self, agent: subprocess.Popen[bytes], forward: bool = True, failure_elsewhere: Path | None = None
    ) -> int:
        """Wait until `agent` has ended, passing signals on to its ranks; its return code.

        Without `forward` the agent is killed at the first signal: what it does is not worth saving. Some time after
        the file `failure_elsewhere` has appeared it is killed too: its ranks would wait for those of another node.
        """
        look, give_up = time.monotonic() + LOOK_SECONDS, float("inf")
        while True:
            try:
                return agent.wait(timeout=POLL_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            now = time.monotonic()
            if failure_elsewhere is not None and now >= look:
                look = now + LOOK_SECONDS
                if failure_elsewhere.exists():
                    give_up = min(give_up, now + GRACE_SECONDS)
            if self.at_once or (self._noted and not forward) or now >= give_up:
                agent.kill()
            elif self._noted and now >= self._due:
                ranks = children_of(agent.pid)
                for number in self._noted:
                    send(number, ranks)
                self._due = now + REPEAT_SECONDS
