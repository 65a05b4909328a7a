"""Start the ranks of one node and wait until they have ended."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from triagekit.launching.command import agent_environment, agent_words
from triagekit.launching.forwarding import SignalForwarding
from triagekit.launching.processes import start_child
from triagekit.launching.rendezvous import Rendezvous
from triagekit.launching.reports import REPORTS, RankReport, ranks_ended_by, read_reports
from triagekit.launching.rung_in_force import RungInForce
from triagekit.training.ranks import ATTEMPT


@dataclass(frozen=True)
class RanksEnd:
    """How the ranks of this node ended: the agent's return code, one report a rank where it left one, how many
    there were, those that somebody killed, the first stop signal that this process got, whether a second Ctrl-C
    ended them, and those that aborted."""

    code: int
    reports: list[RankReport]
    ranks: int
    killed: list[int] = field(default_factory=list)
    signal_number: int | None = None
    killed_by_person: bool = False
    aborted: list[int] = field(default_factory=list)

    def first(self, end: str) -> RankReport | None:
        """The earliest report of that end."""
        return next((report for report in self.reports if report.end == end), None)

    def all_are(self, end: str) -> bool:
        """Whether every rank of this node reported that end."""
        return len(self.reports) == self.ranks and all(report.end == end for report in self.reports)


def attempt_name(environment: Mapping[str, str]) -> str:
    """What tells this start of a run from others: the batch job's attempt, else one of its own."""
    return environment.get(ATTEMPT) or f"{socket.gethostname()}.{os.getpid()}.{int(time.time())}"


def run_ranks(
    force: RungInForce,
    place: Rendezvous | None,
    module: str,
    words: Sequence[str],
    extra: Mapping[str, str],
    forward: bool = True,
    failure_file: Path | None = None,
) -> RanksEnd:
    """Run `module words…` in every rank of this node under the rung in force.

    Stop signals are passed on to the ranks; with `forward` False they end the ranks at once. `failure_file`, seen by
    all nodes of the run, is how a node tells the others that its ranks have failed.
    """
    with tempfile.TemporaryDirectory(prefix="triagekit-ranks-") as reports, SignalForwarding() as forwarding:
        environment = {**os.environ, **extra, **force.to_environment(), REPORTS: reports}
        agent = start_child(
            agent_words(force.rung, place, module, words), agent_environment(force.rung, place, environment)
        )
        try:
            code = forwarding.wait_for(agent, forward, failure_file)
        finally:
            # Alive here only when waiting failed; the kernel then ends its ranks too.
            agent.kill()
            agent.wait()
        if code and failure_file is not None:
            failure_file.touch()
        return RanksEnd(
            code,
            read_reports(Path(reports)),
            max(1, force.rung.count),
            ranks_ended_by(signal.SIGKILL, Path(reports)),
            forwarding.signal_number,
            forwarding.at_once,
            ranks_ended_by(signal.SIGABRT, Path(reports)),
        )
