"""Which rung a site's job takes: what the plan says fits, asked of Slurm, chosen by policy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from triagekit.cluster import start_times
from triagekit.cluster.durations import parse_duration
from triagekit.cluster.sbatch_script import SbatchScript
from triagekit.cluster.sites import Policy, SiteSettings
from triagekit.cluster.start_times import Candidate, RungStart
from triagekit.errors import Problem, ProblemsError, TriageError, did_you_mean
from triagekit.hardware.ladder import RESERVED, SHIPPED, Ladder, Rung, load_ladder
from triagekit.training.settings import TrainSettings

Notes = Callable[[str], None]


@dataclass(frozen=True)
class SubmitOptions:
    """What the command line says beside configuration and site; None: as the site says."""

    policy: Policy | None = None
    patience: str | None = None
    rung: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class ChosenRung:
    """The rung, why not a better one (`rung: reason` lines), and Slurm's answers for the table."""

    rung: Rung
    passed_over: tuple[str, ...]
    answers: tuple[RungStart, ...]


def site_ladder(site: SiteSettings, own: str = SHIPPED) -> Ladder:
    """The ladder as this site has it, `own` being the run's. Raises ProblemsError when the site serves a rung that the
    ladder does not have."""
    name = site.ladder or own
    ladder = load_ladder(name, site.ladder_overrides or None)
    problems = [
        Problem(
            f"site {site.name}, rungs.{rung}", f"the ladder has no rung '{rung}'.", did_you_mean(rung, ladder.names)
        )
        for rung in site.rungs
        if rung not in ladder.names
    ]
    if problems:
        raise ProblemsError(f"Site {site.name} and the ladder {name} do not fit together:", problems)
    return ladder


def choose_rung(
    runs: Sequence[TrainSettings],
    site: SiteSettings,
    options: SubmitOptions,
    script_for: Callable[[Rung], SbatchScript],
    notes: Notes,
) -> ChosenRung:
    """The rung for a training job, or for an array of them: one that all `runs` fit on. `script_for` gives the script
    that would be submitted, about which Slurm is asked.

    With `options.rung`, or a rung in the runs' own settings, that rung is taken whatever Slurm says. Without Slurm on
    this machine (a dry run on a laptop) the order decides. Raises TriageError when no rung of the site can be had or fits.
    """
    ladder = site_ladder(site, runs[0].hardware.ladder)
    policy = options.policy or site.policy
    patience = site.patience_seconds if options.patience is None else _seconds(options.patience)
    named = options.rung or next((run.hardware.rung for run in runs if run.hardware.rung not in RESERVED), None)
    if named is not None:
        site.place(named)
    unfit = _unfit(runs, ladder, site)
    candidates = []
    for rung in ladder.rungs:
        if not site.serves(rung.name) or named not in (None, rung.name):
            continue
        reason = "" if named is not None else unfit.get(rung.name, "")
        script = None if reason else script_for(rung)
        candidates.append(Candidate(rung.name, site.place(rung.name).partition or "(default)", script, reason))
    if named is not None and unfit.get(named):
        notes(f"The plan says that the run does not fit on {named}: {unfit[named]}.")
    answers = _answers(candidates, options, notes)
    if named is not None:
        (answer,) = answers
        if answer.refused:
            notes(f"{answer.rung} was asked for, so it is submitted although: {answer.refused}.")
        answers = [start_times.take(answer)]
    else:
        answers = start_times.choose(answers, policy, patience)
    chosen = next(answer.rung for answer in answers if answer.chosen)
    return ChosenRung(ladder.rung(chosen), _passed_over(ladder, chosen, named, answers, site), tuple(answers))


def _passed_over(
    ladder: Ladder, chosen: str, named: str | None, answers: Sequence[RungStart], site: SiteSettings
) -> tuple[str, ...]:
    """`rung: reason` of every rung of the ladder above the chosen one."""
    reasons = {answer.rung: answer.why_not for answer in answers}
    above = ladder.names[: ladder.names.index(chosen)]
    if named is not None:
        return tuple(f"{rung}: {named} was asked for" for rung in above)
    return tuple(f"{rung}: {reasons.get(rung, f'not served by site {site.name}')}" for rung in above)


def _answers(candidates: Sequence[Candidate], options: SubmitOptions, notes: Notes) -> list[RungStart]:
    if options.dry_run and shutil.which("sbatch") is None:
        notes("No Slurm on this machine, so no start times: the order of the rungs decides.")
        return [RungStart(one.rung, one.partition, refused=one.not_fitting) for one in candidates]
    return start_times.ask_start_times(candidates, notes)


def _unfit(runs: Sequence[TrainSettings], ladder: Ladder, site: SiteSettings) -> dict[str, str]:
    """Rung → why a run does not fit on it, by the plan; rungs on which all fit are left out."""
    from triagekit.launching.plan import plan_run

    unfit: dict[str, str] = {}
    for settings in runs:
        for row in plan_run(settings, None, ladder, wanted="none").rows:
            if not row.fits and site.serves(row.rung.name):
                name = f"{settings.name}: " if len(runs) > 1 else ""
                unfit.setdefault(row.rung.name, name + ("; ".join(row.reasons) or "it does not fit"))
    return unfit


def _seconds(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise TriageError(f"--patience: {error}.") from None
