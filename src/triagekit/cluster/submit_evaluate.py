"""`triage submit evaluate`: measure runs on a split, as one job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from triagekit.cluster.job_folder import next_job_folder
from triagekit.cluster.job_scripts import evaluate_script
from triagekit.cluster.sites import SiteSettings
from triagekit.cluster.submit import SubmittedJob, submit_job
from triagekit.errors import Problem, ProblemsError, TriageError
from triagekit.training.run_folder import RunFolder

KIND = "evaluate"


def submit_evaluate(
    runs: Sequence[Path],
    site: SiteSettings,
    words: Sequence[str] = (),
    *,
    dependency: str | None = None,
    dry_run: bool = False,
) -> SubmittedJob:
    """Submit `triage evaluate RUNS WORDS`; script and logs go to the first run's `jobs/`.

    Raises ProblemsError for runs that are not there or not finished, unless a job that comes first finishes them.
    """
    problems = []
    for run in runs if dependency is None else ():
        try:
            if not RunFolder.open(run).is_finished:
                problems.append(
                    Problem(str(run), "is not finished.", "Train it first, or wait for its job: --after ID")
                )
        except TriageError as error:
            problems.append(Problem(str(run), str(error)))
    if problems:
        raise ProblemsError("These runs cannot be evaluated:", problems)
    folder = next_job_folder(runs[0], KIND, dry_run=dry_run)
    script = evaluate_script(runs, folder=folder, site=site, words=words)
    return submit_job(
        script,
        folder,
        KIND,
        site,
        dependency=dependency,
        dry_run=dry_run,
        card={"runs": [str(run) for run in runs], "words": list(words)},
    )
