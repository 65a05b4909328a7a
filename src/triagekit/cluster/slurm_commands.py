"""Every call of a Slurm command, typed: patience with a restarting controller, and Slurm's own words in errors."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from triagekit.cluster.slurm_errors import SlurmError, advice, is_controller_away, may_have_been_taken
from triagekit.cluster.slurm_output import (
    FINAL_STATES,
    PARTITION_FORMAT,
    QUEUE_FORMAT,
    JobState,
    PartitionNodes,
    QueuedJob,
    StartEstimate,
    parse_key_values,
    parse_sacct,
    parse_sinfo,
    parse_squeue,
    parse_start_estimate,
)
from triagekit.errors import TriageError

__all__ = [
    "FINAL_STATES",
    "JobState",
    "PartitionNodes",
    "QueuedJob",
    "StartEstimate",
    "clean_environment",
    "parse_key_values",
    "partition_names",
    "requeue",
    "run_slurm",
    "sacct_state",
    "sbatch",
    "scancel",
    "scontrol_config",
    "scontrol_show_job",
    "sinfo_partitions",
    "squeue",
    "test_only",
]


def run_slurm(
    *words: str,
    timeout: float = 60.0,
    patience: float = 120.0,
    text_in: str | None = None,
) -> str:
    """Run one Slurm command and return what it printed on stdout.

    While the controller is away (restart, overload) the command is tried again for `patience` seconds. Raises
    SlurmError with Slurm's own words and what to do, TriageError where Slurm is not installed.
    """
    return _run(words, timeout, patience, text_in).stdout


def _run(
    words: Sequence[str],
    timeout: float,
    patience: float,
    text_in: str | None = None,
    resend: bool = True,
) -> subprocess.CompletedProcess[str]:
    until = time.monotonic() + patience
    pause = 1.0
    while True:
        try:
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                env=clean_environment(os.environ),
                input=text_in,
                stdin=subprocess.DEVNULL if text_in is None else None,
            )
        except FileNotFoundError:
            raise TriageError(
                f"There is no '{words[0]}' on this machine. Run this on a login node of the cluster (`module load "
                f"slurm` where Slurm is a module); `triage submit … --dry-run` prints the script anywhere."
            ) from None
        except subprocess.TimeoutExpired:
            message = f"{words[0]} gave no answer within {timeout:.0f} s"
            done = subprocess.CompletedProcess(
                list(words), 1, "", f"{message}: Socket timed out on send/recv operation"
            )
        if done.returncode == 0:
            return done
        message = (done.stderr.strip() or done.stdout.strip()).replace("\n\n", "\n")
        again = is_controller_away(message) and (resend or not may_have_been_taken(message))
        if not again or time.monotonic() + pause > until:
            raise SlurmError(words, done.returncode, message, advice(message, partition_names))
        time.sleep(pause)
        pause = min(10.0, pause * 1.5)


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without what a surrounding job put there.

    A job that submits a job would hand its own memory, tasks and devices down, and `srun` in the new job then fails on
    the contradiction. Where Slurm's configuration lies stays.
    """
    kept = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CONF_SERVER"}
    if "SLURM_JOB_ID" not in environment:
        return dict(environment)
    own = ("SLURM_", "SLURMD_", "SRUN_", "PMI", "TRIAGEKIT_ATTEMPT", "TRIAGEKIT_RUNG", "CUDA_VISIBLE_DEVICES")
    ranks = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    return {
        name: value
        for name, value in environment.items()
        if name in kept or not (name.startswith(own) or name in ranks)
    }


def sbatch(script: Path, *options: str, directory: Path | None = None, patience: float = 120.0) -> str:
    """Submit `script` and return the job id. `options` win over the script's #SBATCH lines.

    A submission that may have reached a controller which did not answer is looked up in the queue by its script,
    never sent twice.
    """
    words = ["sbatch", "--parsable", *options, str(script.absolute())]
    if directory is not None:
        words.insert(2, f"--chdir={directory.absolute()}")
    try:
        done = _run(words, 60.0, patience, resend=False)
    except SlurmError as error:
        if not may_have_been_taken(error.message):
            raise
        # A job that submits its own successor has the same script.
        own = {os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")}
        for job in squeue(patience=patience):
            if job.command == str(script.absolute()) and not own & {job.array_job_id, job.job_id}:
                return job.array_job_id
        done = _run(words, 60.0, patience, resend=False)
    # With several clusters the answer is `id;cluster`.
    return done.stdout.strip().splitlines()[-1].partition(";")[0]


def test_only(script: str | Path, *options: str, timeout: float = 60.0, patience: float = 30.0) -> StartEstimate:
    """When Slurm would start `script` (a file, or its text), without submitting. A refusal is an estimate without start.

    Raises SlurmError only when the controller cannot be asked.
    """
    text = None if isinstance(script, Path) else script
    words = ["sbatch", "--test-only", *options, *([str(script)] if text is None else [])]
    try:
        done = _run(words, timeout, patience, text)
    except SlurmError as error:
        if is_controller_away(error.message):
            raise
        return StartEstimate(None, None, None, error.message, refused=True)
    return parse_start_estimate(done.stderr + done.stdout)


# pytest would take a function of this name for a test wherever it is imported.
test_only.__test__ = False  # type: ignore[attr-defined]


def squeue(
    ids: Sequence[str] | None = None, user: str | None = None, *, timeout: float = 60.0, patience: float = 120.0
) -> list[QueuedJob]:
    """Waiting and running jobs: those of `ids`, or of `user`, or of the calling user. Ids that are gone are left out."""
    if ids is not None and not ids:
        return []
    words = ["squeue", "--noheader", f"--format={QUEUE_FORMAT}"]
    if ids is not None:
        # Asked for one id that is gone, Slurm fails; asked for two, though they be the same, it leaves it out.
        words.append(f"--jobs={','.join([*ids, ids[0]])}")
    else:
        words.append(f"--user={user or _own_name()}")
    return parse_squeue(run_slurm(*words, timeout=timeout, patience=patience))


def scontrol_show_job(job_id: str, *, patience: float = 120.0) -> dict[str, str] | None:
    """All that the controller remembers of a job (of an array: its first record); None when it has forgotten it."""
    try:
        text = run_slurm("scontrol", "show", "-o", "job", job_id, patience=patience)
    except SlurmError as error:
        if "Invalid job id" in error.message:
            return None
        raise
    records = [parse_key_values(line) for line in text.splitlines() if line.startswith("JobId=")]
    return records[0] if records else None


def scontrol_config(*, patience: float = 120.0) -> dict[str, str]:
    """`scontrol show config` as a dict of Slurm's own names."""
    lines = run_slurm("scontrol", "show", "config", patience=patience).splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def sinfo_partitions(*, patience: float = 120.0) -> list[PartitionNodes]:
    """Partitions, one entry for each set of equal nodes."""
    return parse_sinfo(run_slurm("sinfo", "--noheader", f"--format={PARTITION_FORMAT}", patience=patience))


def partition_names() -> list[str]:
    """Names of the live partitions; [] where Slurm gives none."""
    try:
        return sorted({partition.name for partition in sinfo_partitions(patience=0.0)})
    except TriageError:
        return []


def scancel(*ids: str, options: Sequence[str] = (), patience: float = 120.0) -> None:
    """Cancel jobs (or with `options` such as `--signal=USR2`, signal them)."""
    run_slurm("scancel", *options, *ids, patience=patience)


def requeue(job_id: str, *, patience: float = 120.0) -> None:
    """Put a running or ended job back into the queue."""
    run_slurm("scontrol", "requeue", job_id, patience=patience)


def sacct_state(job_id: str, *, patience: float = 60.0) -> JobState | None:
    """State of a job, also after the queue forgot it: the controller's record first, else accounting.

    None when neither knows the job. The controller comes first because accounting lags by seconds, and because many
    small clusters have no accounting.
    """
    record = scontrol_show_job(job_id, patience=patience)
    if record is not None:
        code, _, signal = record.get("ExitCode", "0:0").partition(":")
        return JobState(record["JobState"], int(code), int(signal or 0), int(record.get("Restarts", 0)))
    try:
        text = run_slurm(
            "sacct", "-n", "-P", "-X", "--delimiter=|", "-o", "JobID,State,ExitCode", "-j", job_id, patience=patience
        )
    except SlurmError as error:
        if "accounting storage is disabled" in error.message.lower():
            return None
        raise
    return parse_sacct(text)


def _own_name() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
