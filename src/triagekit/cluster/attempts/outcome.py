"""How an attempt ended: from the work's exit code, the run's marker and what Slurm says about the job."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from triagekit.cluster.attempts.own_job import OwnJob
from triagekit.cluster.attempts.record import Attempt, State, last_sign_of_life, newest_step
from triagekit.cluster.slurm_errors import SlurmError
from triagekit.errors import TriageError
from triagekit.training.run_folder import RunFolder

# Sent by Slurm (or a person) to ask for a checkpoint and an end.
STOPPING = {128 + number: number.name for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
USER_ERROR = 2

# What Slurm calls the end of a job that did not close its own attempt.
_SLURM_STATES: dict[str, State] = {
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled",
    "FAILED": "failed",
    "OUT_OF_MEMORY": "failed",
}


@dataclass(frozen=True)
class Outcome:
    """`goes_on`: the run is to continue; `requeued_by_slurm`: Slurm has seen to that already."""

    state: State
    code: int
    message: str
    goes_on: bool = False
    requeued_by_slurm: bool = False


def judge(code: int, finished: bool, job: OwnJob) -> Outcome:
    """What the work's exit code means here and now. Asks Slurm about the job only if the work did not end by itself."""
    if finished and (code == 0 or code in STOPPING):
        return Outcome("finished", 0, "the run is finished")
    if code == 0:
        return Outcome("failed", 1, "the work ended with 0, but the run has no summary.json: it is not finished")
    if code == USER_ERROR:
        return Outcome("failed", code, "user error: see the lines above")
    try:
        record = job.record()
    except SlurmError as error:
        # Not knowing whether it was cancelled, the job must not come back by itself.
        return Outcome(
            "failed" if code not in STOPPING else "preempted", code, f"no answer from Slurm: {error.message}"
        )
    if record is None:
        return Outcome("cancelled", code, "Slurm does not know this job any more")
    if job.is_requeued(record):
        return Outcome("preempted", code, "Slurm took the job back into the queue", True, requeued_by_slurm=True)
    if record.is_at_its_limit:
        return Outcome("timeout", code, "the time limit ended the job", True)
    if record.is_cancelled:
        return Outcome("cancelled", code, "the job was cancelled")
    if code not in STOPPING:
        return Outcome("failed", code, f"the work failed with exit code {code}{_killed(code)}")
    if record.preempted:
        return Outcome("preempted", code, f"{STOPPING[code]}: a job of higher priority needs the nodes", True)
    if record.is_near_its_end:
        return Outcome("timeout", code, f"{STOPPING[code]}: the time limit is near", True)
    return Outcome("preempted", code, f"stopped by {STOPPING[code]}", True)


def _killed(code: int) -> str:
    if code == 128 + signal.SIGKILL:
        return " (SIGKILL: out of memory?)"
    return ""


def close_open_attempts(run: Path, attempts: Sequence[Attempt], job: OwnJob) -> list[Attempt]:
    """The attempts, with those closed that were ended without being able to say so."""
    return [
        attempt if attempt.state != "running" or attempt.name == job.name else _close(run, attempt, job)
        for attempt in attempts
    ]


def _close(run: Path, attempt: Attempt, job: OwnJob) -> Attempt:
    state, message = _state_of_lost(run, attempt, job)
    ended = last_sign_of_life(run)
    return dataclasses.replace(
        attempt,
        state=state,
        message=message,
        # The queue's own waiting after it is not work; the run's files tell when it last worked.
        ended=ended if attempt.started < ended < time.time() else attempt.started,
        step_after=newest_step(run),
    )


def _state_of_lost(run: Path, attempt: Attempt, job: OwnJob) -> tuple[State, str]:
    said: tuple[State, str] | None = None
    if attempt.job != job.job:
        try:
            record = job.record(attempt.job)
        except TriageError:
            record = None
        state = _SLURM_STATES.get(record.state) if record is not None else None
        if record is not None and state is not None:
            said = state, f"Slurm ended job {attempt.job}: {record.state}"
    if _stopped_by(run) == attempt.name and (said is None or said[0] != "cancelled"):
        return "preempted", "stopped with a checkpoint; its job was ended before it could say so"
    return said or ("lost", "ended by Slurm without notice: node failure, or a preemption without grace")


def _stopped_by(run: Path) -> str | None:
    folder = RunFolder(run)
    try:
        attempt = folder.read(folder.folder / "stopped.json").get("attempt")
    except TriageError:
        return None
    return str(attempt) if attempt is not None else None
