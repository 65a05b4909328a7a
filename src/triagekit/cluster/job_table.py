"""One row for each run or job below a folder: what Slurm says of it, and how far its files say it came."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triagekit.cluster.attempts.record import Attempt, read_attempts
from triagekit.cluster.job_folder import JobFolder, is_job_folder, job_folders
from triagekit.cluster.slurm_commands import FINAL_STATES, QueuedJob, sacct_state, squeue
from triagekit.cluster.sweep import array_numbers, read_member_list
from triagekit.errors import TriageError
from triagekit.training.run_folder import RunFolder

_DEPTH = 3
_SKIP = {"checkpoints", "adapter", "tensorboard", "eval", "jobs"}
LIVE = {"pending", "running", "completing", "configuring", "suspended", "requeued", "stopped", "resizing"}


@dataclass(frozen=True)
class JobRow:
    """A run with its newest job, or a job that is no training run (prepare, evaluate, score, compare)."""

    job: str | None
    run: str
    kind: str
    state: str
    rung: str | None = None
    node: str | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    rate: float | None = None
    """optimizer steps a second, of the newest attempt"""
    eta: float | None = None
    """seconds"""
    restarts: int = 0
    reason: str | None = None

    @property
    def is_run(self) -> bool:
        """Whether it trains."""
        return self.kind in ("train", "sweep")

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in LIVE


@dataclass(frozen=True)
class Queue:
    """Slurm's queue by job: `12`, and `12_3` for members of arrays, waiting ones spelt out."""

    jobs: Mapping[str, QueuedJob]
    asked: bool

    def of(self, *ids: str | None) -> tuple[str, QueuedJob] | None:
        for job_id in ids:
            if job_id is not None and job_id in self.jobs:
                return job_id, self.jobs[job_id]
        return None


def read_table(root: Path) -> tuple[list[JobRow], str | None]:
    """Rows in the order of submission, and why Slurm was not asked (None: it was).

    Raises TriageError where there is no such folder.
    """
    if not root.is_dir():
        raise TriageError(f"No folder {root}: nothing was submitted or trained here. See triage submit --help.")
    queue, why = ask_queue()
    owners = list(dict.fromkeys([*owners_below(root), *_owners_in(queue, root)]))
    rows = [row for owner in owners for row in _rows(root, owner, queue)]
    return sorted(rows, key=_order), why


def _order(row: JobRow) -> tuple[bool, list[int], str]:
    numbers = [int(part) for part in (row.job or "").split("_") if part.isdigit()]
    return not numbers, numbers, row.run


def _owners(folder: Path, depth: int) -> Iterable[Path]:
    """Folders that have jobs or are runs."""
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir() or entry.name.startswith(".") or entry.name in _SKIP:
            continue
        if (entry / "jobs").is_dir() or (entry / "config.yaml").is_file():
            yield entry
        if depth > 1 and not (entry / "config.yaml").is_file():
            yield from _owners(entry, depth - 1)


def owners_below(root: Path) -> list[Path]:
    """Folders below `root` that have jobs or are runs."""
    return list(_owners(root, _DEPTH))


def slurm_is_here() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("squeue") is not None


def _owners_in(queue: Queue, root: Path) -> Iterable[Path]:
    """Owners of queued jobs that lie elsewhere, such as the folder of an archive's scores."""
    for job in queue.jobs.values():
        folder = Path(job.command).parent
        if is_job_folder(folder) and folder.is_dir():
            owner = JobFolder(folder).owner
            if not owner.resolve().is_relative_to(root.resolve()):
                yield owner


def ask_queue() -> tuple[Queue, str | None]:
    """The calling user's queue, and why it could not be asked (None: it was)."""
    if not slurm_is_here():
        return Queue({}, asked=False), "no squeue on this machine: states are those of the run folders"
    try:
        jobs = squeue(patience=0.0)
    except TriageError as error:
        last = str(error).splitlines()[-1].strip()
        return Queue({}, asked=False), f"Slurm gave no answer, states are those of the run folders. {last}"
    found: dict[str, QueuedJob] = {}
    for job in jobs:
        numbers = array_numbers(job) if "_" in job.job_id else []
        for name in [f"{job.array_job_id}_{number}" for number in numbers] or [job.job_id]:
            found[name] = job
    return Queue(found, asked=True), None


def _rows(root: Path, owner: Path, queue: Queue) -> Iterable[JobRow]:
    run = RunFolder(owner)
    jobs = [job for job in job_folders(owner) if job.read().get("job_id")]
    if run.config.is_file() or (jobs and jobs[-1].kind == "train"):
        card = jobs[-1].read() if jobs else _array_card(owner)
        yield _run_row(root, run, card, queue)
        return
    for job in jobs:
        card = job.read()
        members = read_member_list(job)
        if not members:
            yield _job_row(root, owner, job, card, str(card["job_id"]), queue)
        for number, (name, _) in enumerate(members):
            # The list has the folder as seen from where it was submitted; here it is seen from elsewhere, perhaps.
            folder = owner / name
            member_id = f"{card['job_id']}_{number}"
            if job.kind == "evaluate":
                yield _job_row(root, folder, job, card, member_id, queue)
            elif not RunFolder(folder).config.is_file() and _newest_of(owner, name) == job.folder:
                # A member that has not begun has no folder of its own yet.
                yield _run_row(root, RunFolder(folder), {**card, "job_id": member_id, "kind": "sweep"}, queue)


def _newest_of(owner: Path, member: str) -> Path | None:
    """The last array that this member was submitted in."""
    for job in reversed(job_folders(owner)):
        if job.kind == "sweep" and member in [name for name, _ in read_member_list(job)]:
            return job.folder
    return None


def _array_card(run: Path) -> dict[str, Any]:
    """The card of the sweep's array that a member belongs to, with the member's own id."""
    newest = _newest_of(run.parent, run.name)
    if newest is None:
        return {}
    job = JobFolder(newest)
    number = [name for name, _ in read_member_list(job)].index(run.name)
    card = job.read()
    return {**card, "job_id": f"{card.get('job_id')}_{number}" if card.get("job_id") else None}


def _run_row(root: Path, run: RunFolder, card: Mapping[str, Any], queue: Queue) -> JobRow:
    attempts = _attempts(run.folder)
    newest = attempts[-1] if attempts else None
    summary = _read(run, run.summary)
    plan = _read(run, run.plan)
    lines = run.metric_lines()
    losses = [line["loss"] for line in lines if line.get("split") == "train" and "loss" in line]
    step = summary.get("steps") or max((int(line.get("step", 0)) for line in lines), default=None)
    steps = plan.get("steps")
    submitted = str(card["job_id"]) if card.get("job_id") else None
    # A successor has another id than the job that was submitted.
    queued = queue.of(newest.successor if newest else None, newest.job if newest else None, submitted)
    job_id = queued[0] if queued else submitted or (newest.job if newest else None)
    state, reason = _run_state(run, queued[1] if queued else None, newest, job_id, bool(summary), queue)
    rate = _rate(run, newest, step, state)
    left = None if rate is None or steps is None or step is None else (steps - step) / rate
    rung = _rung(run, plan) or card.get("rung")
    return JobRow(
        job=job_id,
        run=_shown(root, run.folder),
        kind=str(card.get("kind") or "train"),
        state=state,
        rung=str(rung) if rung else None,
        node=_node(queued[1] if queued else None, newest if state not in LIVE else None),
        step=step,
        steps=steps,
        loss=losses[-1] if losses else None,
        rate=rate,
        eta=left if state == "running" else None,
        restarts=max(0, len(attempts) - 1),
        # The attempt's message points to the log around it, which is elsewhere for who reads this table.
        reason=reason and reason.replace("see the lines above", f"see triage jobs logs {_shown(root, run.folder)}"),
    )


def _run_state(
    run: RunFolder, queued: QueuedJob | None, newest: Attempt | None, job_id: str | None, finished: bool, queue: Queue
) -> tuple[str, str | None]:
    if queued is not None:
        return queued.state.lower(), queued.reason if queued.state == "PENDING" else None
    if finished:
        return "finished", None
    if newest is not None and newest.state != "running":
        return newest.state, newest.message or None
    if job_id is not None and queue.asked and (ended := _ended(job_id)) is not None:
        return ended, "Slurm ended it; submit it again and it goes on" if newest else None
    return (run.status if run.config.is_file() else "unknown"), None


def _job_row(root: Path, owner: Path, job: JobFolder, card: Mapping[str, Any], job_id: str, queue: Queue) -> JobRow:
    queued = queue.of(job_id)
    if queued is not None:
        state: str = queued[1].state.lower()
        reason = queued[1].reason if queued[1].state == "PENDING" else None
    else:
        measured = job.kind == "evaluate" and any(owner.glob("eval/**/metrics.json"))
        state, reason = (_ended(job_id) if queue.asked else None) or ("finished" if measured else "unknown"), None
    return JobRow(
        job=job_id,
        run=_shown(root, owner),
        kind=job.kind,
        state="finished" if state == "completed" else state,
        rung=card.get("rung"),
        node=_node(queued[1] if queued else None, None),
        reason=reason,
    )


def _ended(job_id: str) -> str | None:
    try:
        state = sacct_state(job_id, patience=0.0)
    except TriageError:
        return None
    return state.state.lower() if state is not None and state.state in FINAL_STATES else None


def _node(queued: QueuedJob | None, ended: Attempt | None) -> str | None:
    if queued is not None:
        # squeue gives the nodes of a running job and, in parentheses, the reason of a waiting one.
        return None if queued.where.startswith("(") else queued.where or None
    return ended.nodes or None if ended else None


def _rate(run: RunFolder, newest: Attempt | None, step: int | None, state: str) -> float | None:
    """Steps a second since the newest attempt began, from its first step to its newest line."""
    if newest is None or step is None or step <= newest.step_before or state not in {*LIVE, "finished"}:
        return None
    with contextlib.suppress(OSError):
        until = newest.ended or run.metrics.stat().st_mtime
        seconds = until - newest.started
        return (step - newest.step_before) / seconds if seconds > 0 else None
    return None


def _rung(run: RunFolder, plan: Mapping[str, Any]) -> Any:
    rung = plan.get("rung")
    return rung.get("name") if isinstance(rung, dict) else rung


def _read(run: RunFolder, path: Path) -> dict[str, Any]:
    with contextlib.suppress(TriageError):
        return run.read(path)
    return {}


def _attempts(run: Path) -> list[Attempt]:
    with contextlib.suppress(TriageError):
        return read_attempts(run)
    return []


def _shown(root: Path, folder: Path) -> str:
    try:
        return os.path.relpath(folder.absolute(), root.absolute())
    except ValueError:
        return str(folder)
