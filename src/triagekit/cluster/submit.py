"""One way for every job into the queue: store the script, submit it, store the id."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triagekit.cluster import slurm_commands
from triagekit.cluster.job_folder import JobFolder, is_job_folder, next_job_folder
from triagekit.cluster.sbatch_script import SbatchScript, file_pattern
from triagekit.cluster.site_rungs import site_ladder
from triagekit.cluster.sites import SiteSettings
from triagekit.errors import TriageError
from triagekit.files.atomic import write_text
from triagekit.settings import to_yaml
from triagekit.training.run_folder import RunFolder


@dataclass(frozen=True)
class SubmittedJob:
    """What came of a submission; with a dry run nothing is on disk and `job_id` is None."""

    job_id: str | None
    kind: str
    folder: Path
    script: Path
    rung: str | None
    text: str
    dependency: str | None = None


def submit_job(
    script: SbatchScript,
    folder: Path,
    kind: str,
    site: SiteSettings,
    *,
    rung: str | None = None,
    passed_over: Sequence[str] = (),
    dependency: str | None = None,
    dry_run: bool = False,
    files: Mapping[str, str] | None = None,
    card: Mapping[str, Any] | None = None,
) -> SubmittedJob:
    """Submit `script` for `folder` and record it there.

    `folder` is a job folder from `next_job_folder(owner, kind)` (where the script's text names it), or the owner
    itself: then the next job folder is made and the log goes there. `dependency` is sbatch's, e.g. `afterok:12:13`;
    such a job is removed by Slurm when what it waits for fails. `files` (name → text) are stored beside the script
    first, with the site and its ladder; `card` is added to job.json. Raises SlurmError with Slurm's words; the job
    folder then stays, without an id.
    """
    if not is_job_folder(folder):
        folder = next_job_folder(folder, kind, dry_run=dry_run)
    if "output" not in script.options:
        log = "%A_%a.log" if "array" in script.options else "%j.log"
        script = script.with_options(output=f"{file_pattern(str(folder))}/{log}")
    if dependency is not None:
        # In the script it would be read again by a restarted or re-submitted job, whose predecessors are long gone.
        options = [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"]
    else:
        options = []
    job, text = JobFolder(folder), script.render()
    if dry_run:
        return SubmittedJob(None, kind, folder, job.script, rung, text, dependency)
    stored = {"site.yaml": to_yaml(site), **(files or {})}
    if rung is not None and site.changes_ladder:
        stored.setdefault("ladder.yaml", to_yaml(site_ladder(site)))
    for name, content in stored.items():
        write_text(folder / name, content)
    write_text(job.script, text)
    record = {
        "job_id": None,
        "kind": kind,
        "name": script.options.get("job-name"),
        "site": site.name,
        "rung": rung,
        "passed_over": list(passed_over),
        "dependency": dependency,
        "directory": str(Path.cwd()),
        "submitted": datetime.now(UTC).isoformat(timespec="seconds"),
        **(card or {}),
    }
    job.write(record)
    job_id = slurm_commands.sbatch(job.script, *options)
    job.write({**record, "job_id": job_id})
    return SubmittedJob(job_id, kind, folder, job.script, rung, text, dependency)


def jobs_of(owner: Path) -> list[slurm_commands.QueuedJob]:
    """Waiting and running jobs whose script lies in this owner's `jobs/`, successors among them."""
    root = os.path.realpath(owner / "jobs") + os.sep
    return [job for job in slurm_commands.squeue() if os.path.realpath(job.command).startswith(root)]


def refuse_second_job(run: RunFolder) -> None:
    """Raises TriageError when the run is finished, or a job for it is waiting or running."""
    if run.is_finished:
        raise TriageError(
            f"{run.folder} is finished: there is nothing to submit. See it: triage runs show {run.name}. "
            f"To train again, give the new run its own name (--name)."
        )
    jobs = jobs_of(run.folder)
    if jobs:
        shown = ", ".join(f"{job.job_id} ({job.state.lower()}, {job.partition})" for job in jobs)
        raise TriageError(
            f"{run.folder} has a job already: {shown}. It continues by itself after preemption and time limits. "
            f"To start anew: scancel {jobs[0].array_job_id}, then submit again."
        )
