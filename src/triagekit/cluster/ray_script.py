"""The batch script of an archive job: `triage score` on one node, or on a Ray cluster over several."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from triagekit.cluster.job_folder import next_job_folder
from triagekit.cluster.job_scripts import job_options, place_options, preamble, srun_words
from triagekit.cluster.sbatch_script import SbatchScript
from triagekit.cluster.sites import SiteSettings
from triagekit.cluster.submit import SubmittedJob, jobs_of, submit_job
from triagekit.errors import TriageError
from triagekit.files.resources import find_config
from triagekit.settings import load_settings, to_yaml

if TYPE_CHECKING:
    from triagekit.scoring.settings import ScoreSettings

KIND = "score"

# A token of the job's own: without one, Ray lets everybody who reaches the node's ports run code as its user.
TOKEN_LINES = (
    "",
    "# Only who has this job's own token may speak to its Ray cluster; nodes and networks are shared.",
    "export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token",
    "RAY_AUTH_TOKEN=\"$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')\"",
    "export RAY_AUTH_TOKEN",
)
_REASONS = {
    "open-mode": "A requeued job goes on writing to the same log.",
    "requeue": "After preemption, a failed node or the time limit, the job continues with the shards that are missing.",
    "no-requeue": "This site forbids requeueing: a successor is queued before the work begins (see below).",
    "signal": "The warning before the time limit: no more shards are taken, those under way are finished.",
}


def load_score_settings(name_or_path: str, overrides: Sequence[str] = (), runs: Sequence[str] = ()) -> ScoreSettings:
    """Settings of an archive job; `archive`, `run` and `out` are usually among the `key=value` overrides.

    `runs`: what was given with --run instead of `run=`; the settings name the first. Raises TriageError where both are given.
    """
    from triagekit.scoring.settings import ScoreSettings

    if runs and any(word.startswith("run=") for word in overrides):
        raise TriageError("run= and --run both say which run: give every run with --run.")
    return load_settings(
        ScoreSettings, find_config("score", name_or_path), [*overrides, *(f"run={run}" for run in runs[:1])]
    )


def score_words(settings: ScoreSettings, config: Path, runs: Sequence[str] = ()) -> list[str]:
    """What follows `triage score`: the stored settings, and what the command wants to be told by name.

    `runs`: several that go over the archive in one pass, instead of the settings' own.
    """
    named = [word for run in runs or [settings.run] for word in ("--run", run)]
    return [settings.archive, *named, "--out", settings.out, "--config", str(config)]


def score_script(
    words: Sequence[str],
    *,
    name: str,
    folder: Path,
    site: SiteSettings,
    nodes: int | None = None,
    directory: Path | None = None,
) -> SbatchScript:
    """A job that runs `triage score WORDS`; `nodes` (default: the site's) form one Ray cluster when they are several."""
    place = site.job_place("score")
    if nodes is not None:
        place = place.model_copy(update={"nodes": nodes})
    count = place.nodes or 1
    successor = site.requeue == "successor"
    script = shlex.quote(str(folder / "job.sbatch"))
    module = ["-m", "triagekit.cluster.ray_cluster", "--"] if count > 1 else ["-m", "triagekit", "score"]
    attempt = '"$PYTHON" -m triagekit.cluster.score_attempt'
    return SbatchScript(
        options={
            **job_options(name, folder, site, directory=directory or Path.cwd()),
            **place_options(place, site),
        },
        body=[
            *preamble(site),
            *(TOKEN_LINES if count > 1 else ()),
            "",
            "# The warning is for the work alone; where Slurm sends it to this shell too, it must not end it.",
            "trap '' USR2",
            "# When Slurm ends the job, the last line is still reached: it requeues what is not finished.",
            "trap : TERM",
            *([f'successor="$({attempt} begin --successor {script})"'] if successor else []),
            "code=0",
            f'{srun_words()} \\\n    "$PYTHON" {shlex.join([*module, *words])} || code=$?',
            f'exec {attempt} end --code "$code" --max-restarts={site.max_restarts}'
            + (' --successor "$successor"' if successor else ""),
        ],
        title=[
            f"triage score {shlex.join(words)}",
            f"on {count} node{'s, as one Ray cluster' if count > 1 else ''}, site {site.name}",
        ],
        reasons=_REASONS,
        shell=site.shell,
    )


def submit_score(
    settings: ScoreSettings,
    site: SiteSettings,
    *,
    runs: Sequence[str] = (),
    nodes: int | None = None,
    dependency: str | None = None,
    dry_run: bool = False,
) -> SubmittedJob:
    """Submit an archive job; its script and logs go to `<out>/jobs/<n>-score/`.

    `runs`: several that go over the archive in one pass, instead of the settings' own.
    Raises TriageError where such a job is in the queue already, or the scores are complete, and for runs that cannot be scored
    together.
    """
    out = Path(settings.out).expanduser()
    refuse_second_score(settings, runs, ask_slurm=not dry_run)
    folder = next_job_folder(out, KIND, dry_run=dry_run)
    words = score_words(settings, folder / "config.yaml", runs)
    script = score_script(words, name=f"score-{out.name}", folder=folder, site=site, nodes=nodes)
    return submit_job(
        script,
        folder,
        KIND,
        site,
        dependency=dependency,
        dry_run=dry_run,
        files={"config.yaml": to_yaml(settings)},
        card={"archive": settings.archive, "run": ", ".join(runs or [settings.run]), "out": settings.out},
    )


def refuse_second_score(settings: ScoreSettings, runs: Sequence[str] = (), ask_slurm: bool = True) -> None:
    """Raises TriageError when these scores are complete, of every run, or a job for them is waiting or running."""
    from triagekit.scoring.manifest import MANIFEST_FILE
    from triagekit.scoring.settings import for_runs

    out = Path(settings.out).expanduser()
    folders = [Path(own.out).expanduser() for own in for_runs(settings, runs or [settings.run])]
    if all((folder / MANIFEST_FILE).is_file() for folder in folders):
        raise TriageError(
            f"{out} is complete ({MANIFEST_FILE} is there): there is nothing to submit. Give another out."
        )
    jobs = jobs_of(out) if ask_slurm else []
    if jobs:
        shown = ", ".join(f"{job.job_id} ({job.state.lower()})" for job in jobs)
        raise TriageError(f"{out} has a job already: {shown}. It continues by itself; scancel it to start anew.")
