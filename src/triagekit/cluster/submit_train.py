"""`triage submit train`: one run to the best rung that is soon to be had."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from triagekit.cluster.job_folder import JobFolder, next_job_folder
from triagekit.cluster.job_scripts import train_script
from triagekit.cluster.sbatch_script import SbatchScript
from triagekit.cluster.site_rungs import ChosenRung, Notes, SubmitOptions, choose_rung, site_ladder
from triagekit.cluster.sites import SiteSettings
from triagekit.cluster.slurm_errors import SlurmError, is_controller_away
from triagekit.cluster.submit import SubmittedJob, refuse_second_job, submit_job
from triagekit.errors import TriageError
from triagekit.hardware.ladder import Rung
from triagekit.settings import to_yaml
from triagekit.training.environment import git_state
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings


@dataclass(frozen=True)
class SubmittedTraining:
    """The job, and how its rung was chosen."""

    job: SubmittedJob
    choice: ChosenRung


def submit_train(
    settings: TrainSettings,
    site: SiteSettings,
    options: SubmitOptions,
    notes: Notes,
    *,
    dependency: str | None = None,
    given: str = "",
) -> SubmittedTraining:
    """Choose the rung, store the settings as resolved, submit.

    The job reads `jobs/<n>-train/config.yaml`, so edits of the original while it waits change nothing. `given` is the
    configuration's name or path, for the record. Raises TriageError for a run that is finished, has a job already, or
    was made with other settings; SlurmError with Slurm's words.
    """
    run = RunFolder(Path(settings.output) / settings.run_name)
    if not options.dry_run:
        refuse_second_job(run)
        check_data(settings, dependency)
    settings = settings.model_copy(update={"name": settings.run_name})
    folder = next_job_folder(run.folder, "train", dry_run=True)

    def script_for(rung: Rung, folder: Path = folder, passed_over: tuple[str, ...] = ()) -> SbatchScript:
        return train_script(
            run=run.folder,
            config=JobFolder(folder).config,
            folder=folder,
            site=site,
            rung=rung.name,
            nodes=rung.nodes,
            passed_over=passed_over,
        )

    choice = choose_rung([settings], site, options, script_for, notes)
    files = {"config.yaml": to_yaml(settings)}
    if site.changes_ladder:
        files["ladder.yaml"] = to_yaml(site_ladder(site, settings.hardware.ladder))
    fresh = not run.config.is_file()
    if not options.dry_run:
        RunFolder.create(run.folder, settings.model_dump(mode="json"), to_yaml(settings))
        folder = next_job_folder(run.folder, "train")
    try:
        job = submit_job(
            script_for(choice.rung, folder, choice.passed_over),
            folder,
            "train",
            site,
            rung=choice.rung.name,
            passed_over=choice.passed_over,
            dependency=dependency,
            dry_run=options.dry_run,
            files=files,
            card={
                "run": str(run.folder),
                "config": given,
                "starts": [answer.as_row() for answer in choice.answers],
                "git": git_state(),
            },
        )
    except SlurmError as error:
        # A run that never was must not stand in the way of the next try with other settings. Where no answer came, the
        # job may be in the queue, and needs its files.
        if fresh and not is_controller_away(error.message):
            shutil.rmtree(run.folder)
        raise
    return SubmittedTraining(job, choice)


def check_data(settings: TrainSettings, dependency: str | None) -> None:
    """Raises TriageError when the data set is not there, unless a job that comes first makes it."""
    folder = Path(settings.data)
    if dependency is None and not (folder / "manifest.json").is_file():
        raise TriageError(
            f"No processed data set at {folder} (data: in the configuration), so the job would fail as soon as it "
            f"starts. Make it first: triage data prepare … --out {folder}, or let triage submit pipeline do so."
        )
