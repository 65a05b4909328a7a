"""What a pipeline's later jobs run: choose the member to score with, compare what was finished, say what is missing.

python -m triagekit.cluster.pipeline_report choose FOLDER      prints the run folder
python -m triagekit.cluster.pipeline_report compare FOLDER     writes the report and status.json
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from triagekit.cluster.attempts.record import read_attempts
from triagekit.cluster.job_folder import job_folders
from triagekit.cluster.pipeline import SETTINGS_FILE, is_evaluated
from triagekit.cluster.pipeline_settings import BEST, PipelineSettings
from triagekit.cluster.slurm_commands import sacct_state
from triagekit.cluster.sweep import read_member_list
from triagekit.errors import TriageError
from triagekit.files.atomic import write_json
from triagekit.settings import load_settings
from triagekit.sweep.settings import Member
from triagekit.training.run_folder import RunFolder

STATUS_FILE = "status.json"
_LOG_LINES = 400


@dataclass(frozen=True)
class MemberStatus:
    """How far a member came, and why not further."""

    member: str
    run: str
    stage: str
    """prepared, trained or evaluated: the last stage that was finished"""
    missing: str | None
    """what stopped it; None for an evaluated member"""


def read_pipeline(folder: Path) -> PipelineSettings:
    """The settings as submitted. Raises TriageError where the folder is none of a pipeline's."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise TriageError(f"{folder} is no pipeline's folder: it has no {SETTINGS_FILE}.")
    return load_settings(PipelineSettings, path)


def statuses(settings: PipelineSettings) -> list[MemberStatus]:
    """Every member, in the order of the sweep."""
    return [_status(settings, member) for member in settings.members()]


def _status(settings: PipelineSettings, member: Member) -> MemberStatus:
    run, split = RunFolder(member.run), settings.evaluate.split
    if is_evaluated(member.run, split):
        return MemberStatus(member.name, str(member.run), "evaluated", None)
    if run.is_finished:
        why = _why(settings.folder, "evaluate", member) or f"not evaluated on {split}"
        return MemberStatus(member.name, str(member.run), "trained", f"evaluation: {why}")
    attempts = read_attempts(member.run)
    told = attempts[-1].message if attempts and attempts[-1].state not in ("running", "finished") else ""
    why = _why(settings.folder, "sweep", member) or told or "not trained"
    told = told.removesuffix(": see the lines above")
    if told and told not in why:
        why = f"{told}; {why}"
    if settings.prepare is not None and not (Path(settings.prepare.out) / "manifest.json").is_file():
        why = f"the data was not prepared ({settings.prepare.out} is not complete)"
    return MemberStatus(member.name, str(member.run), "prepared", f"training: {why}")


def _why(folder: Path, kind: str, member: Member) -> str:
    """Slurm's state of the member's last job of a kind, and the last thing that triagekit said in its log."""
    for job in reversed(job_folders(folder)):
        names = [name for name, _ in read_member_list(job)]
        job_id = job.read().get("job_id")
        if job.kind != kind or member.name not in names or not job_id:
            continue
        number = names.index(member.name)
        try:
            state = sacct_state(f"{job_id}_{number}", patience=10.0)
        except TriageError:
            state = None
        said = _last_words(job.folder / f"{job_id}_{number}.log")
        shown = f"job {job_id}_{number}" + (f" is {state.state}" if state else "")
        return f"{shown}{f': {said}' if said else ''}"
    return ""


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        return ""
    said = [line.removeprefix("triage: ") for line in lines if line.startswith("triage: ")]
    return said[-1] if said else next((line for line in reversed(lines) if line.strip()), "")


def choose(settings: PipelineSettings) -> Path:
    """The run to score with: the named member, or of the finished ones that with the lowest validation loss.

    Raises TriageError where there is none.
    """
    stage = settings.score
    if stage is None:
        raise TriageError(f"Pipeline '{settings.name}' has no stage `score`.")
    members = settings.members()
    if stage.member != BEST:
        return next(member.run for member in members if member.name == stage.member)
    losses = {}
    for member in members:
        run = RunFolder(member.run)
        if run.is_finished and (loss := run.read(run.summary).get("val_loss_best")) is not None:
            losses[member.run] = float(loss)
    if not losses:
        raise TriageError(f"No member of pipeline '{settings.name}' is finished with a validation loss: none is best.")
    return min(losses, key=lambda run: losses[run])


def score(settings: PipelineSettings, cluster: bool) -> NoReturn:
    """Become `triage score`, or its part on this node of a Ray cluster."""
    stage = settings.score
    assert stage is not None
    module = ["triagekit.cluster.ray_cluster", "--"] if cluster else ["triagekit", "score"]
    words = [stage.archive, "--run", str(choose(settings)), "--out", stage.out, "--config", stage.config]
    os.execv(sys.executable, [sys.executable, "-m", *module, *words, *stage.overrides])


def compare(settings: PipelineSettings) -> int:
    """Write status.json and the report on the evaluated members. 1 where members are missing, 0 else."""
    all_statuses = statuses(settings)
    missing = [status for status in all_statuses if status.missing]
    write_json(settings.folder / STATUS_FILE, {"members": [asdict(status) for status in all_statuses]})
    for status in missing:
        print(f"triage: {status.member} is missing: {status.missing}", file=sys.stderr)
    runs = [status.run for status in all_statuses if not status.missing]
    if not runs:
        raise TriageError(f"Pipeline '{settings.name}': no member was evaluated, so there is nothing to compare.")
    stage = settings.compare
    assert stage is not None
    words = ["compare", *runs, "--split", settings.evaluate.split, "--out", str(settings.report)]
    words += ["--title", _title(settings, len(all_statuses), missing), *stage.words]
    code = subprocess.run([sys.executable, "-m", "triagekit", *words], check=False).returncode
    return code or (1 if missing else 0)


def _title(settings: PipelineSettings, members: int, missing: Sequence[MemberStatus]) -> str:
    title = (settings.compare and settings.compare.title) or settings.name
    if not missing:
        return title
    shown = "; ".join(f"{status.member} – {status.missing}" for status in missing)
    return f"{title} ({members - len(missing)} of {members} runs; missing: {shown})"


def main(words: Sequence[str] | None = None) -> int:
    """The two commands."""
    parser = argparse.ArgumentParser(prog="python -m triagekit.cluster.pipeline_report", description="For job scripts.")
    parser.add_argument("command", choices=["choose", "score", "compare"])
    parser.add_argument("folder", type=Path, help="the pipeline's folder")
    parser.add_argument("--cluster", action="store_true", help="with score: on this node of a Ray cluster")
    options = parser.parse_args(words)
    try:
        settings = read_pipeline(options.folder)
        if options.command == "choose":
            print(choose(settings))
            return 0
        if options.command == "score":
            score(settings, options.cluster)
        return compare(settings)
    except TriageError as error:
        print(f"triage: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
