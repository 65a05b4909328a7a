"""From what a person names (a run, a folder, a job's number) to jobs and their logs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from triagekit.cluster.attempts.record import read_attempts
from triagekit.cluster.job_folder import JobFolder, job_folders
from triagekit.cluster.job_table import ask_queue, owners_below, slurm_is_here
from triagekit.cluster.sweep import read_member_list
from triagekit.errors import TriageError, did_you_mean

_ID = re.compile(r"\d+(_\d+)?")
POLL_SECONDS = 1.0


def owner_of(target: str, root: Path) -> Path:
    """The run (or sweep, scores, …) folder that `target` names: a path, or a name below `root`.

    Raises TriageError naming the nearest one.
    """
    for folder in (Path(target), root / target):
        if (folder / "jobs").is_dir() or (folder / "config.yaml").is_file():
            return folder
        if _array_of(folder):
            return folder
    owners = owners_below(root) if root.is_dir() else []
    names = [str(owner.relative_to(root)) for owner in owners]
    matches = [owner for owner in owners if owner.name == target]
    if len(matches) == 1:
        return matches[0]
    raise TriageError(f"No run or job '{target}' below {root}. {did_you_mean(target, names)}".rstrip())


def _array_of(run: Path) -> list[tuple[JobFolder, int]]:
    """The sweeps' and pipelines' arrays that a member belongs to, newest first, with its number there."""
    found = []
    for job in reversed(job_folders(run.parent)):
        names = [name for name, _ in read_member_list(job)]
        if run.name in names:
            found.append((job, names.index(run.name)))
    return found


def logs_of(target: str, root: Path) -> list[Path]:
    """Log files of a job's number, or of a run's newest job that has one, oldest first. Raises TriageError for none."""
    if _ID.fullmatch(target):
        found = _logs_of_job(target, root)
        where = f"job {target}"
    else:
        owner = owner_of(target, root)
        found = _logs_of_owner(owner)
        where = str(owner)
    if not found:
        raise TriageError(f"{where} has no log yet: the job has not begun, or ran elsewhere. See: triage jobs")
    return found


def _logs_of_owner(owner: Path) -> list[Path]:
    for job in reversed(job_folders(owner)):
        if logs := sorted(job.folder.glob("*.log"), key=lambda path: path.stat().st_mtime):
            return logs
    # A member of a sweep: its log is one of the array's. A successor has another number, so every attempt is looked up.
    jobs = {attempt.job for attempt in read_attempts(owner)}
    found = []
    for job, number in _array_of(owner):
        logs = [*job.folder.glob(f"*_{number}.log"), *(path for id_ in jobs for path in job.folder.glob(f"{id_}.log"))]
        if job.kind == "sweep" and logs:
            found = sorted(logs, key=lambda path: path.stat().st_mtime)
            break
    return found


def _logs_of_job(job_id: str, root: Path) -> list[Path]:
    folders = [job.folder for owner in owners_below(root) for job in job_folders(owner)] if root.is_dir() else []
    folders += [Path(job.command).parent for name, job in ask_queue()[0].jobs.items() if name.startswith(job_id)]
    found: dict[Path, None] = {}
    for folder in folders:
        for path in sorted([*folder.glob(f"{job_id}.log"), *folder.glob(f"{job_id}_*.log")]):
            found[path.resolve()] = None
    return list(found)


def follow(path: Path, is_over: Callable[[], bool]) -> Iterator[str]:
    """The log's text, then what is added to it, until the job is over; a log that is not there yet is waited for."""
    position = 0
    while True:
        over = is_over()
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as handle:
                handle.seek(position)
                text = handle.read()
                position = handle.tell()
            if text:
                yield text
        if over:
            return
        time.sleep(POLL_SECONDS)


def live_jobs_of(target: str, root: Path) -> list[str]:
    """Numbers of the waiting and running jobs that `target` names, successors among them.

    Raises TriageError where Slurm cannot be asked, or there is none.
    """
    if not slurm_is_here():
        raise TriageError("Slurm's commands are not on this machine: jobs are cancelled where they were submitted.")
    queue, why = ask_queue()
    if why is not None:
        raise TriageError(why)
    if _ID.fullmatch(target):
        # A whole array is cancelled by its number, which is none of its members'.
        if any(name == target or name.startswith(f"{target}_") for name in queue.jobs):
            return [target]
        raise TriageError(f"Job {target} is not in your queue (it has ended, or is not yours). See: triage jobs")
    owner = owner_of(target, root)
    own = (owner / "jobs").resolve()
    ids = [name for name, job in queue.jobs.items() if Path(job.command).resolve().is_relative_to(own)]
    members = {f"{job.read().get('job_id')}_{number}" for job, number in _array_of(owner)}
    successors = {job for attempt in read_attempts(owner) for job in (attempt.job, attempt.successor) if job}
    ids += [name for name in queue.jobs if name in members | successors and name not in ids]
    if not ids:
        raise TriageError(f"{owner} has no job in the queue. See: triage jobs")
    return ids
