"""A sweep on this machine: train what is open, choose the rates, measure what is compared; the same call goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from triagekit.errors import TriageError
from triagekit.files.atomic import write_json, write_text
from triagekit.progress import Progress
from triagekit.settings import to_yaml
from triagekit.sweep.choice import RateChoice, chosen_members, members_of, method_of, rate_choices
from triagekit.sweep.settings import (
    RATE,
    Member,
    SweepSettings,
    possible_members,
    settings_of_methods,
    sweep_folder,
)
from triagekit.sweep.tasks import Task, run_tasks
from triagekit.training.run_folder import RunFolder

SETTINGS_FILE = "sweep.yaml"
RATES_FILE = "learning_rates.json"
LOG_LINES = 3


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep: the runs that are compared, each with its method's name, in the order of the sweep, and how rates
    were chosen."""

    folder: Path
    runs: dict[Path, str]
    choices: tuple[RateChoice, ...]
    method_settings: frozenset[str]
    """Settings that define the methods."""

    @property
    def chosen_settings(self) -> frozenset[str]:
        """Settings that were chosen for each method on the validation split."""
        return frozenset({RATE} if self.choices else set())


def run_sweep(
    sweep: SweepSettings,
    evaluation: Sequence[str],
    at_once: int,
    offline: bool,
    progress: Progress,
    notes: Callable[[str], None],
) -> SweepResult:
    """Train every member that is not finished, at most `at_once` together, then evaluate those that are compared, with
    `evaluation` as further words for `triage evaluate`.

    Each is a process of its own, whose output is in the sweep's folder under logs/. Raises ProblemsError for a sweep
    that cannot be run, TriageError naming the members that failed, TasksStopped after a signal.
    """
    folder = sweep_folder(sweep)
    members = possible_members(sweep)
    for member in members:
        if RunFolder(member.run).config.is_file():
            _create(member)
    write_text(folder / SETTINGS_FILE, to_yaml(sweep))
    more = ("--offline",) if offline else ()
    failed: dict[str, str] = {}
    progress.start("sweep", _count(sweep), "runs")
    progress.advance(len(_finished(sweep)))

    def ended(task: Task, code: int) -> None:
        if code:
            failed[task.name] = f"exit code {code}, {task.log}: {_last_lines(task.log)}"
            notes(f"{task.name} failed with {failed[task.name]}")
        progress.advance()

    while True:
        finished = _finished(sweep)
        tasks = [
            _training(folder, member, more)
            for member in members_of(sweep)
            if member.name not in finished and member.name not in failed
        ]
        if not tasks:
            break
        run_tasks(tasks, at_once, ended)
    progress.finish()
    choices = tuple(rate_choices(sweep))
    write_json(folder / RATES_FILE, [choice.to_json() for choice in choices])
    for choice in choices:
        if choice.chosen is not None and choice.at_the_edge:
            notes(
                f"{choice.method}: the best learning rate, {choice.chosen:g}, is at the edge of those that were tried."
            )
    _stop_if(failed, "trained")
    compared = chosen_members(sweep)
    evaluate = [_evaluation(folder, member, (*evaluation, *more)) for member in compared]
    progress.start("evaluate", len(evaluate), "runs")
    run_tasks(evaluate, at_once, ended)
    progress.finish()
    _stop_if(failed, "evaluated")
    return SweepResult(
        folder, {member.run: method_of(member) for member in compared}, choices, settings_of_methods(sweep)
    )


def _count(sweep: SweepSettings) -> int:
    """Runs of the whole sweep, with those that are known only when rates are chosen."""
    waiting = sum(choice.chosen is None for choice in rate_choices(sweep))
    return len(members_of(sweep)) + waiting * (max(1, len(sweep.seeds)) - 1)


def _finished(sweep: SweepSettings) -> set[str]:
    return {member.name for member in members_of(sweep) if RunFolder(member.run).is_finished}


def _training(folder: Path, member: Member, more: tuple[str, ...]) -> Task:
    _create(member)
    config = folder / "members" / f"{member.name}.yaml"
    write_text(config, to_yaml(member.settings))
    return Task(member.name, ("train", str(config), *more), folder / "logs" / f"{member.name}.log")


def _evaluation(folder: Path, member: Member, words: tuple[str, ...]) -> Task:
    return Task(member.name, ("evaluate", str(member.run), *words), folder / "logs" / f"{member.name}.log")


def _create(member: Member) -> None:
    """A run folder of the same name with other settings would only be refused hours later."""
    RunFolder.create(member.run, member.settings.model_dump(mode="json"), to_yaml(member.settings))


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-LOG_LINES:])


def _stop_if(failed: dict[str, str], done: str) -> None:
    if failed:
        raise TriageError(
            f"{len(failed)} members could not be {done}: {', '.join(failed)}. The others are kept; mend what their logs say, "
            "and the same command goes on."
        )
