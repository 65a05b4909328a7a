"""The rung of an array of runs: one that every member fits on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from triagekit.cluster.job_folder import JobFolder, next_job_folder
from triagekit.cluster.job_scripts import train_script
from triagekit.cluster.sbatch_script import SbatchScript
from triagekit.cluster.site_rungs import ChosenRung, Notes, SubmitOptions, choose_rung
from triagekit.cluster.sites import SiteSettings
from triagekit.hardware.ladder import Rung
from triagekit.sweep.settings import Member


def choose_rung_of_members(
    members: Sequence[Member], owner: Path, site: SiteSettings, options: SubmitOptions, notes: Notes
) -> ChosenRung:
    """Ask Slurm about one member on each rung: members are alike in what they ask for. `owner` is the sweep's folder.

    Raises TriageError as choose_rung does.
    """
    folder = next_job_folder(owner, "sweep", dry_run=True)

    def script_for(rung: Rung) -> SbatchScript:
        return train_script(
            run=members[0].run,
            config=JobFolder(folder).config,
            folder=folder,
            site=site,
            rung=rung.name,
            nodes=rung.nodes,
        )

    return choose_rung([member.settings for member in members], site, options, script_for, notes)
