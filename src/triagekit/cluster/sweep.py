"""A sweep as Slurm arrays: what is finished or under way is left out, too long an array is cut into several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from triagekit.cluster.job_folder import JobFolder, job_folders, next_job_folder
from triagekit.cluster.job_scripts import sweep_script
from triagekit.cluster.sbatch_script import SbatchScript
from triagekit.cluster.sites import SiteSettings
from triagekit.cluster.slurm_commands import QueuedJob, scontrol_config
from triagekit.cluster.submit import SubmittedJob, jobs_of, submit_job
from triagekit.errors import TriageError
from triagekit.files.atomic import write_text
from triagekit.settings import to_yaml
from triagekit.sweep.choice import members_of
from triagekit.sweep.settings import Member, SweepSettings, sweep_folder
from triagekit.training.run_folder import RunFolder

KIND = "sweep"
MEMBERS_FILE = "members.tsv"
SETTINGS_FILE = "sweep.yaml"


@dataclass(frozen=True)
class SweepSubmission:
    """What came of submitting a sweep: its members by what happens to them, and the arrays in the queue."""

    members: tuple[Member, ...]
    finished: tuple[str, ...]
    under_way: tuple[str, ...]
    jobs: tuple[SubmittedJob, ...]
    submitted: tuple[tuple[Member, ...], ...]
    """The members of each job, in the order of its array."""


def submit_sweep(
    sweep: SweepSettings,
    site: SiteSettings,
    *,
    rung: str,
    nodes: int = 1,
    passed_over: Sequence[str] = (),
    dependency: str | None = None,
    dry_run: bool = False,
    max_array_size: int | None = None,
    named_before: int = 0,
) -> SweepSubmission:
    """Submit the members that are neither finished nor in the queue.

    `max_array_size` is Slurm's MaxArraySize; absent, it is asked for, and unlimited in a dry run, where job folders are
    only named: `named_before` are taken by other stages. Raises ProblemsError for a sweep that cannot be run, TriageError
    where every member is finished or under way.
    """
    members = members_of(sweep)
    folder = sweep_folder(sweep)
    _refuse_other_members(members)
    finished = tuple(member.name for member in members if RunFolder(member.run).is_finished)
    under_way = () if dry_run else tuple(sorted(members_under_way(folder)))
    open_members = [member for member in members if member.name not in {*finished, *under_way}]
    if not open_members:
        raise TriageError(
            f"Sweep '{sweep.name}': nothing to submit. {len(finished)} of {len(members)} members are finished"
            + (f", {len(under_way)} are in the queue ({', '.join(under_way)})." if under_way else ".")
        )
    limit = max_array_size if max_array_size is not None else (None if dry_run else array_limit())
    if not dry_run:
        write_text(folder / SETTINGS_FILE, to_yaml(sweep))
        for member in open_members:
            # Before the job writes its attempts there: a folder with anything else in it is refused as no run.
            _create(member)
    jobs: list[SubmittedJob] = []
    chunks = split(open_members, limit)
    for chunk in chunks:
        # The cap holds for all of a sweep: the next array waits until the one before has ended, however it ended.
        after = dependency if not jobs else f"afterany:{id_or_name(jobs[-1])}"
        own = next_job_folder(folder, KIND, dry_run=dry_run)
        if dry_run:
            own = later_folder(own, named_before + len(jobs))
        jobs.append(_submit(sweep, chunk, own, site, rung, nodes, passed_over, after, dry_run))
    return SweepSubmission(members, finished, under_way, tuple(jobs), tuple(tuple(chunk) for chunk in chunks))


def _submit(
    sweep: SweepSettings,
    members: Sequence[Member],
    folder: Path,
    site: SiteSettings,
    rung: str,
    nodes: int,
    passed_over: Sequence[str],
    dependency: str | None,
    dry_run: bool,
) -> SubmittedJob:
    script = sweep_script(
        name=sweep.name,
        members=[(member.run, folder / "members" / f"{member.name}.yaml") for member in members],
        folder=folder,
        site=site,
        rung=rung,
        nodes=nodes,
        at_once=min(sweep.concurrency or site.max_array_tasks, len(members)),
        passed_over=passed_over,
    )
    script = saying_after(script, dependency)
    # Stored with the job as resolved: whatever becomes of the sweep's file, a queued member is what was submitted.
    files = {f"members/{member.name}.yaml": to_yaml(member.settings) for member in members}
    files[MEMBERS_FILE] = member_list(members)
    return submit_job(
        script,
        folder,
        KIND,
        site,
        rung=rung,
        passed_over=passed_over,
        dependency=dependency,
        dry_run=dry_run,
        files=files,
    )


def later_folder(folder: Path, jobs: int) -> Path:
    """The name a job folder gets when `jobs` others are made before it: in a dry run none is made."""
    number, _, kind = folder.name.partition("-")
    return folder.with_name(f"{int(number) + jobs}-{kind}")


def saying_after(script: SbatchScript, dependency: str | None) -> SbatchScript:
    """The script with a comment on what it was submitted to wait for, which stands on sbatch's command line."""
    if dependency is None:
        return script
    return replace(script, title=[*script.title, f"submitted with --dependency={dependency}"])


def id_or_name(job: SubmittedJob) -> str:
    """The job's id; in a dry run, which job it would be."""
    return job.job_id or f"<{job.folder.name}>"


def member_list(members: Iterable[Member]) -> str:
    """One line a member, in the order of the array: its number, name, run folder."""
    return "".join(f"{number}\t{member.name}\t{member.run}\n" for number, member in enumerate(members))


def read_member_list(job: JobFolder) -> list[tuple[str, Path]]:
    """(name, run folder) of the members of a submitted array; [] where the job is none."""
    try:
        lines = (job.folder / MEMBERS_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [(name, Path(run)) for _, name, run in (line.split("\t") for line in lines)]


def members_under_way(folder: Path) -> set[str]:
    """Names of the members that wait or run in Slurm, successors among them."""
    names: set[str] = set()
    owned = {str(job.folder.resolve()): job for job in job_folders(folder)}
    for queued in jobs_of(folder):
        job = owned.get(str(Path(queued.command).parent.resolve()))
        if job is not None:
            listed = [name for name, _ in read_member_list(job)]
            names.update(listed[number] for number in array_numbers(queued) if number < len(listed))
    return names


def array_numbers(job: QueuedJob) -> list[int]:
    """The array numbers of one line of squeue: `12_3` is [3], `12_[4-6,9%2]` is [4, 5, 6, 9]."""
    _, _, text = job.job_id.partition("_")
    numbers: list[int] = []
    for part in text.strip("[]").partition("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match:
            first, last = int(match[1]), int(match[2] or match[1])
            numbers.extend(range(first, last + 1, int(match[3] or 1)))
    return numbers


def array_limit() -> int | None:
    """Slurm's MaxArraySize; None where it cannot be told."""
    value = scontrol_config().get("MaxArraySize", "")
    return int(value) if value.isdigit() else None


def split(members: Sequence[Member], limit: int | None) -> list[list[Member]]:
    """Into arrays that Slurm takes. Raises TriageError where it takes none at all."""
    if limit is not None and limit < 1:
        raise TriageError(
            "This cluster allows no job arrays (MaxArraySize is 0 in `scontrol show config`). Submit the members one by "
            "one: triage submit train."
        )
    size = limit or len(members)
    return [list(members[start : start + size]) for start in range(0, len(members), size)]


def _refuse_other_members(members: Sequence[Member]) -> None:
    """A run folder of the same name with other settings would only be refused hours later, on the node."""
    for member in members:
        if RunFolder(member.run).config.is_file():
            _create(member)


def _create(member: Member) -> None:
    RunFolder.create(member.run, member.settings.model_dump(mode="json"), to_yaml(member.settings))
