"""Try a rung with the longest batch in child processes before a run depends on it.

Never inside a running loop: a rank that recovers from a full memory leaves the others waiting in a collective.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from triagekit.errors import TriageError
from triagekit.files.atomic import write_text
from triagekit.hardware.ladder import Rung
from triagekit.launching.forwarding import SignalForwarding
from triagekit.launching.outcome import RanksFailed, StoppedBeforeTraining, describe_failure
from triagekit.launching.processes import start_child
from triagekit.launching.reports import REPORTS, read_reports
from triagekit.launching.run_ranks import RanksEnd, run_ranks
from triagekit.launching.rung_in_force import RungInForce
from triagekit.settings import to_yaml
from triagekit.training.rungs import apply_rung
from triagekit.training.settings import TrainSettings

WORKER = "triagekit.launching.probe_worker"


@dataclass(frozen=True)
class ProbeResult:
    """Whether two steps of the longest batch fit; `peak_bytes` is the most that one process held (None: it failed)."""

    fits: bool
    peak_bytes: int | None
    message: str = ""


def probe(settings: TrainSettings, force: RungInForce) -> ProbeResult:
    """Two optimizer steps of the longest batch on the rung in force, in child processes, so that all memory is free
    again afterwards.

    Every node of a rung over several nodes tries its own share. A process on the CPU is held to the rung's memory_gb.
    Raises TriageError for what the user can mend, RanksFailed for another failure than a full memory,
    StoppedBeforeTraining on a stop signal.
    """
    rung = force.rung
    own = replace(force, rung=_share_of_a_node(rung))
    with tempfile.TemporaryDirectory(prefix="triagekit-probe-") as folder:
        path = Path(folder) / "settings.yaml"
        write_text(path, to_yaml(probe_settings(settings, rung)))
        if own.rung.world == 1:
            end = _alone(own, path)
        else:
            end = run_ranks(own, None, WORKER, [str(path)], {}, forward=False)
    return _judge(end, own.rung)


def probe_settings(settings: TrainSettings, rung: Rung) -> TrainSettings:
    """The run as it is on the rung, cut to two steps of one micro-batch a process."""
    applied = apply_rung(settings, rung, rung.world)
    own = applied.model_dump(mode="json")
    own["batch"]["effective"] = applied.batch.micro * max(1, rung.count)
    own |= {"name": "probe", "max_steps": 2, "max_train_rows": None, "class_weights": {}}
    own["labels_alone_share"] = 0.0  # the longest rows are those with their text
    own["sampling"] = {}
    own["evaluation"] |= {"every_share": 1.0, "early_stopping": None, "max_rows": None}
    return TrainSettings.model_validate(own)


def _share_of_a_node(rung: Rung) -> Rung:
    # The settings hold what the rung over all nodes makes of them already.
    changes: dict[str, object] = {"nodes": 1, "micro_batch": None}
    if rung.count <= 1:
        changes |= {"sharding": "none", "launcher": "none"}
    return rung.model_copy(update=changes)


def _alone(force: RungInForce, path: Path) -> RanksEnd:
    with tempfile.TemporaryDirectory(prefix="triagekit-ranks-") as reports, SignalForwarding() as forwarding:
        environment = {**os.environ, **force.to_environment(), REPORTS: reports}
        child = start_child([sys.executable, "-m", WORKER, str(path)], environment)
        try:
            code = forwarding.wait_for(child, forward=False)
        finally:
            child.kill()
            child.wait()
        return RanksEnd(
            code,
            read_reports(Path(reports)),
            1,
            [0] if code == -signal.SIGKILL and forwarding.signal_number is None else [],
            forwarding.signal_number,
            forwarding.at_once,
            [0] if code == -signal.SIGABRT else [],
        )


def _judge(end: RanksEnd, rung: Rung) -> ProbeResult:
    if end.signal_number is not None:
        raise StoppedBeforeTraining(end.signal_number)
    if end.all_are("finished"):
        return ProbeResult(True, max(report.peak_bytes or 0 for report in end.reports))
    full = end.first("out_of_memory")
    if full is not None:
        return ProbeResult(False, None, full.message)
    if end.killed:
        return ProbeResult(False, None, "killed by the system, as it does when memory runs out")
    # C++ code that gets no memory ends its process; under a limit of our own that is the cause.
    if rung.on_cpu and end.aborted:
        return ProbeResult(False, None, f"no memory beyond the rung's {rung.memory_gb:g} GB")
    refused = end.first("refused")
    if refused is not None:
        raise TriageError(refused.message)
    raise RanksFailed(f"The probe of rung {rung.name} failed. {describe_failure(end)}")
