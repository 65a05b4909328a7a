"""The Slurm job that this very process is part of: what Slurm says about it, requeueing it, queueing its successor."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from triagekit.cluster.slurm_commands import requeue, sbatch, scancel, scontrol_show_job, squeue
from triagekit.cluster.slurm_errors import SlurmError
from triagekit.errors import TriageError

# A controller being restarted or failing over is back within minutes; a job's result is worth waiting for it.
PATIENCE_SECONDS = 900.0

# Slurm says that it warned a job, not why. No site's warning comes earlier than this before the time limit.
NEAR = timedelta(minutes=15)


@dataclass(frozen=True)
class JobRecord:
    """What matters of `scontrol show job`."""

    state: str
    reason: str
    restarts: int
    preempted: bool
    end: datetime | None

    @property
    def is_near_its_end(self) -> bool:
        """Whether the time limit is so near that a warning is one of that."""
        return self.end is not None and self.end - datetime.now() < NEAR

    @property
    def is_over(self) -> bool:
        """Whether Slurm has ended the job already and only its processes remain."""
        return self.state != "RUNNING"

    @property
    def is_at_its_limit(self) -> bool:
        """Whether Slurm has ended the job for its time limit."""
        return self.is_over and self.reason == "TimeLimit"

    @property
    def is_cancelled(self) -> bool:
        """Whether a person has ended the job. Of a job that is completing, only the reason tells this."""
        return self.is_over and not self.is_at_its_limit


@dataclass(frozen=True)
class OwnJob:
    """The job around this process, from its environment."""

    job: str
    restart: int
    nodes: str
    array_task: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> OwnJob:
        """Raises TriageError outside of a Slurm job."""
        job = environment.get("SLURM_JOB_ID")
        if not job:
            raise TriageError("This is not a Slurm job (no SLURM_JOB_ID). Submit the script: sbatch SCRIPT")
        restart = int(environment.get("SLURM_RESTART_COUNT") or 0)
        return cls(job, restart, environment.get("SLURM_JOB_NODELIST", ""), environment.get("SLURM_ARRAY_TASK_ID"))

    @property
    def name(self) -> str:
        """This attempt's name: job id and restart count, as TRIAGEKIT_ATTEMPT has it."""
        return f"{self.job}.{self.restart}"

    def record(self, job: str | None = None, patience: float = PATIENCE_SECONDS) -> JobRecord | None:
        """What Slurm knows of a job (by default this one); None if it does not know it. Raises SlurmError."""
        fields = scontrol_show_job(job or self.job, patience=patience)
        if fields is None:
            return None
        preempted = fields.get("PreemptTime", "None") not in {"None", "Unknown", ""}
        try:
            end = datetime.fromisoformat(fields.get("EndTime", ""))
        except ValueError:
            # `Unknown`, or `N/A` where no time limit is set.
            end = None
        return JobRecord(
            fields["JobState"], fields.get("Reason", "None"), int(fields.get("Restarts", 0)), preempted, end
        )

    def requeue(self, patience: float = PATIENCE_SECONDS) -> bool:
        """Put this job back into the queue; whether it is there now. Raises SlurmError if Slurm refuses.

        A job that was cancelled stays so (Slurm itself would requeue it while its last processes end).
        Slurm sends SIGTERM to every process of a job that it requeues, this one and its scontrol included, possibly
        before scontrol has its answer (submitit takes such a job for a failed one): so SIGTERM must be ignored by now,
        which the child inherits. Whether an unanswered request was granted is seen from the restarts; it is never
        repeated then.
        """
        until = time.monotonic() + patience
        while True:
            record = self.record(patience=max(0.0, until - time.monotonic()))
            if record is not None and self.is_requeued(record):
                return True
            if record is None or record.is_cancelled:
                return False
            try:
                requeue(self.job, patience=0.0)
                return True
            except SlurmError:
                if time.monotonic() > until:
                    raise
                time.sleep(2.0)

    def is_requeued(self, record: JobRecord) -> bool:
        """Whether Slurm has taken this job back into the queue."""
        return record.restarts > self.restart or record.state == "PENDING"

    def queue_successor(self, script: Path, chain: str) -> str:
        """Queue `script` to run if this job does not end well; its job id. Never a second one. Raises SlurmError."""
        waiting = self._waiting_successor(script)
        if waiting is not None:
            return waiting
        options = [f"--dependency=afternotok:{self.job}", "--kill-on-invalid-dep=yes"]
        options.append(f"--export=ALL,TRIAGEKIT_CHAIN={chain}")
        if self.array_task is not None:
            options.append(f"--array={self.array_task}")
        queued = sbatch(script, *options)
        # A submission without an answer is looked up by its script, which this very job has, too.
        found = queued if queued != self.job else self._waiting_successor(script)
        if found is None:
            raise TriageError(f"Slurm gave no answer on the successor of job {self.job}.")
        return found

    def _waiting_successor(self, script: Path) -> str | None:
        for job in squeue():
            on_this = f"afternotok:{self.job}" in job.dependency.replace("(", ",").split(",")
            if on_this and job.command == str(script.absolute()):
                return job.array_job_id
        return None

    def cancel(self, job: str) -> None:
        """Take another job out of the queue. Raises SlurmError; one that is gone already is no mistake."""
        try:
            scancel(job, patience=PATIENCE_SECONDS)
        except SlurmError as error:
            if "Invalid job id" not in error.message:
                raise
