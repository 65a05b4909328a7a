"""`triage train` inside a rank: train in this process, and report the end to the launcher of this node, if it is ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from triagekit.errors import TriageError
from triagekit.hardware.ladder import load_ladder
from triagekit.launching.agent import AGENT_PID
from triagekit.launching.processes import end_with_parent
from triagekit.launching.reports import REPORTS, RankReport, own_rank, report_failure, write_report
from triagekit.launching.rung_in_force import RungInForce
from triagekit.progress import Progress, SilentProgress
from triagekit.training.ranks import RUNG
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings
from triagekit.training.stopping import TrainingInterrupted

Notes = Callable[[str], None]
OTHER_FAILURE = 1


def has_launcher() -> bool:
    """Whether this rank was started by `triage train`, not by torchrun or accelerate launch alone."""
    return REPORTS in os.environ


def train_in_rank(
    settings: TrainSettings, progress: Callable[[], AbstractContextManager[Progress]], notes: Notes
) -> RunFolder:
    """Train in this process, one of several; only rank 0 talks and shows a bar.

    Under a launcher that knows no rungs, a rung named in the settings is put in force; `auto` leaves the settings as
    they are, since the number of processes is chosen already.
    """
    from triagekit.training.train import train

    # By it accelerate refuses a DeepSpeed file, which the training makes of its own, beside a config's zero_stage.
    os.environ.pop("ACCELERATE_CONFIG_DS_FIELDS", None)
    if RUNG not in os.environ and settings.hardware.rung not in {"auto", "none"}:
        rung = load_ladder(settings.hardware.ladder).rung(settings.hardware.rung)
        os.environ.update(RungInForce(rung).to_environment())
    if own_rank():
        return train(settings, SilentProgress(), lambda text: None)
    with progress() as bar:
        return train(settings, bar, notes)


def run_in_rank(work: Callable[[], RankReport]) -> int:
    """Do `work` as one of this launcher's ranks; the exit code for torch's agent.

    0 for a run that finished or stopped as it was told to, so that the agent waits for the other nodes; 1 for any
    error, so that it ends the other ranks. What happened stands in this rank's report.
    """
    agent = os.environ.get(AGENT_PID)
    end_with_parent(int(agent) if agent else None)
    rank, folder = own_rank() or 0, Path(os.environ[REPORTS])
    try:
        report = work()
    except TrainingInterrupted as stop:
        report = RankReport(rank, "stopped", str(stop), stop.signal_number, stop.step, stop.steps)
    except TriageError as error:
        report = RankReport(rank, "refused", str(error))
    except Exception as error:
        report_failure(folder, rank, error)
        return OTHER_FAILURE
    write_report(folder, report)
    return 0 if report.end in {"finished", "stopped"} else OTHER_FAILURE
