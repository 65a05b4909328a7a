"""What the end of the ranks means for the run: finished, stopped with a checkpoint, refused, or failed."""

from __future__ import annotations

import signal

from triagekit.errors import TriageError
from triagekit.launching.run_ranks import RanksEnd
from triagekit.training.run_folder import RunFolder
from triagekit.training.stopping import TrainingInterrupted


class RanksFailed(Exception):
    """Ranks ended in a way that no settings would mend; the exit code is 1."""


class StoppedBeforeTraining(Exception):
    """A stop signal came before the first step of this start; what is on disk is as it was."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        name = signal.Signals(signal_number).name
        super().__init__(f"{name}: stopped before training began; nothing is lost. The same command goes on.")


def settle_outcome(folder: RunFolder, end: RanksEnd, attempt: str) -> RunFolder:
    """The finished run, or the exception that says how this start ended.

    The run folder decides, the ranks' reports explain: summary.json is written last by a run that is finished,
    stopped.json of this attempt by one that stopped with a checkpoint. Raises TrainingInterrupted, TriageError (once,
    however many ranks had it), KeyboardInterrupt for ranks killed by a second Ctrl-C, RanksFailed for any other end.
    """
    if folder.is_finished or end.all_are("finished"):
        return folder
    # A rank whose neighbour died is told to stop by torch's agent: that is no stop anybody asked for.
    if end.signal_number is not None or end.all_are("stopped"):
        stopped = folder.read(folder.stopped)
        if stopped.get("attempt") == attempt:
            raise TrainingInterrupted(int(signal.Signals[stopped["signal"]]), stopped["step"], stopped["steps"])
        report = end.first("stopped")
        if report is not None and report.signal_number is not None and end.all_are("stopped"):
            raise TrainingInterrupted(report.signal_number, report.step or 0, report.steps or 0)
    refused = end.first("refused")
    if refused is not None:
        raise TriageError(refused.message)
    if end.killed_by_person:
        raise KeyboardInterrupt
    raise RanksFailed(describe_failure(end))


def describe_failure(end: RanksEnd) -> str:
    """What a person should read when ranks failed for a reason nobody foresaw."""
    if end.killed:
        names = ", ".join(str(rank) for rank in end.killed)
        return (
            f"Rank {names} was killed (SIGKILL), as the system does when memory runs out; the other ranks ended with "
            "it. The same command goes on from the newest checkpoint."
        )
    failed = end.first("failed")
    if failed is not None:
        first_line = failed.message.partition("\n")[0]
        return f"Rank {failed.rank} failed ({first_line}). Its traceback is above; the other ranks ended with it."
    return (
        f"{end.ranks - len(end.reports)} of the {end.ranks} ranks of this node did not say how they ended (agent's code "
        f"{end.code}): they were killed, waited in vain for another node, or never started. "
        "What was printed above tells more."
    )
