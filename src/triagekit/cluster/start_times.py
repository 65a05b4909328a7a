"""When would Slurm start the run on each rung, and which rung is worth taking? Asked before submitting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from triagekit.cluster import slurm_commands
from triagekit.cluster.durations import in_words
from triagekit.cluster.sbatch_script import SbatchScript
from triagekit.cluster.sites import Policy
from triagekit.cluster.slurm_errors import SlurmError
from triagekit.errors import Problem, ProblemsError, TriageError

SAME_MOMENT = 60.0
"""Seconds: of two rungs that start within this, the better one is taken; Slurm's guesses are no finer."""


@dataclass(frozen=True)
class Candidate:
    """A rung that the site serves. `script` is None where the plan says that the run does not fit (`not_fitting`)."""

    rung: str
    partition: str
    script: SbatchScript | None
    not_fitting: str = ""


@dataclass(frozen=True)
class RungStart:
    """Slurm's answer for one rung. `wait` is in seconds from now, None without an answer; `refused` says why it cannot
    be had at all; `chosen` and `why_not` are filled in by `choose`."""

    rung: str
    partition: str
    start: datetime | None = None
    wait: float | None = None
    refused: str = ""
    message: str = ""
    chosen: bool = False
    why_not: str = ""

    def as_row(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "rung": self.rung,
            "partition": self.partition,
            "start": None if self.start is None else self.start.isoformat(),
            "wait_seconds": None if self.wait is None else round(self.wait),
            "refused": self.refused or None,
            "chosen": self.chosen,
            "why_not": self.why_not or None,
        }


def ask_start_times(
    candidates: Sequence[Candidate], notes: Callable[[str], None], *, patience: float = 30.0
) -> list[RungStart]:
    """Ask `sbatch --test-only` for each rung. A controller that does not answer leaves all without an estimate.

    Slurm gives an estimate even for a partition that is down, so the partitions' own state is asked first.
    """
    answers: list[RungStart] = []
    silent = ""
    closed: dict[str, str] = {}
    try:
        closed = closed_partitions(slurm_commands.sinfo_partitions(patience=patience))
    except TriageError as error:
        silent = str(error)
        notes(f"Slurm gave no start times, so the order of the rungs decides. {error}")
    for candidate in candidates:
        blank = RungStart(candidate.rung, candidate.partition)
        if candidate.script is None:
            answers.append(replace(blank, refused=candidate.not_fitting))
        elif reason := _closed(candidate.partition, closed):
            answers.append(replace(blank, refused=reason))
        elif silent:
            answers.append(replace(blank, message=silent))
        else:
            answers.append(_ask(candidate, candidate.script, blank, patience))
    unanswered = [answer.rung for answer in answers if answer.wait is None and not answer.refused]
    if unanswered and not silent:
        notes(f"Slurm gave no start time for {', '.join(unanswered)}.")
    return answers


def closed_partitions(partitions: Sequence[slurm_commands.PartitionNodes]) -> dict[str, str]:
    """Partition → why no job starts there now: its state is not up, or none of its nodes can work."""
    states: dict[str, list[slurm_commands.PartitionNodes]] = {}
    for entry in partitions:
        states.setdefault(entry.name, []).append(entry)
    closed: dict[str, str] = {}
    unusable = ("down", "drain", "fail", "error", "unknown", "power_down", "inval", "maint")
    for name, entries in states.items():
        if entries[0].available != "up":
            closed[name] = f"partition {name} is {entries[0].available}"
        elif all(entry.states.lower().startswith(unusable) or entry.states.endswith("*") for entry in entries):
            closed[name] = f"no node of partition {name} is working ({', '.join(sorted({e.states for e in entries}))})"
    return closed


def _closed(partition: str, closed: Mapping[str, str]) -> str:
    """Why nothing starts in `a` or in any of `a,b`; empty where something may."""
    reasons = [closed.get(name, "") for name in partition.split(",")]
    return "; ".join(reasons) if all(reasons) else ""


def choose(answers: Sequence[RungStart], policy: Policy, patience: float) -> list[RungStart]:
    """Mark one answer as chosen and say for the others why not. `answers` are best first; `patience` is in seconds.

    best: the best rung that Slurm takes, however long the wait. soonest: the earliest start. best-within: the best rung
    that starts within `patience`, else the earliest start. Where nothing has an estimate, the order decides.
    Raises ProblemsError with Slurm's words for each rung when none can be had.
    """
    possible = [answer for answer in answers if not answer.refused]
    if not possible:
        raise ProblemsError(
            "No rung of this site can be had:",
            [Problem(f"{answer.rung} ({answer.partition})", answer.refused) for answer in answers],
        )
    waits = [answer.wait for answer in possible if answer.wait is not None]
    soonest = min(waits, default=None)
    if policy == "best" or soonest is None:
        chosen = possible[0]
    else:
        within = soonest + SAME_MOMENT if policy == "soonest" else patience
        in_time = [answer for answer in possible if answer.wait is not None and answer.wait <= within]
        earliest = [answer for answer in possible if answer.wait is not None and answer.wait <= soonest + SAME_MOMENT]
        chosen = (in_time or earliest)[0]
    place = list(answers).index(chosen)
    return [
        replace(answer, chosen=True)
        if number == place
        else replace(answer, why_not=_why_not(answer, chosen, number > place, policy, patience))
        for number, answer in enumerate(answers)
    ]


def take(answer: RungStart) -> RungStart:
    """The one rung that was asked for, chosen whatever Slurm says."""
    return replace(answer, chosen=True)


def _why_not(answer: RungStart, chosen: RungStart, below: bool, policy: Policy, patience: float) -> str:
    if answer.refused:
        return answer.refused
    if below and (policy == "best" or answer.wait is None or chosen.wait is None or answer.wait >= chosen.wait):
        return f"{chosen.rung} is better"
    if below and policy == "best-within" and chosen.wait is not None and chosen.wait <= patience:
        return f"{chosen.rung} is better and starts within {in_words(patience)}"
    if below:
        return f"{chosen.rung} is better and starts as soon"
    if answer.wait is None:
        return "Slurm gave no start time"
    if policy == "best-within":
        return f"starts in {in_words(answer.wait)}, later than the {in_words(patience)} it is worth waiting for"
    return f"starts in {in_words(answer.wait)}, {chosen.rung} sooner"


def _ask(candidate: Candidate, script: SbatchScript, blank: RungStart, patience: float) -> RungStart:
    # With --output in a folder that is not made yet, or a working directory only the nodes see, nothing may fail here.
    text = script.without_options("output", "chdir").render()
    try:
        estimate = slurm_commands.test_only(text, patience=patience)
    except SlurmError as error:
        return replace(blank, message=error.message)
    if estimate.refused:
        return replace(blank, refused=_in_one_line(estimate.message))
    if estimate.start is None:
        return replace(blank, message=_in_one_line(estimate.message))
    wait = max(0.0, (estimate.start - datetime.now(estimate.start.tzinfo)).total_seconds())
    return replace(
        blank,
        start=estimate.start,
        wait=wait,
        partition=estimate.partition or blank.partition,
        message=estimate.message,
    )


def _in_one_line(message: str) -> str:
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in message.splitlines()]
    return "Slurm: " + "; ".join(line for line in lines if line)
