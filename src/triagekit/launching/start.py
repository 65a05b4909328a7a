"""From settings and devices to a run that trains: choose the rung, try it, then train here or start the ranks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from triagekit.launching import rendezvous
from triagekit.launching.choose import choose_rung
from triagekit.launching.outcome import settle_outcome
from triagekit.launching.run_ranks import attempt_name, run_ranks
from triagekit.launching.rung_in_force import RungInForce
from triagekit.launching.settle import settle_rung
from triagekit.progress import Progress
from triagekit.settings import to_yaml
from triagekit.training.ranks import ATTEMPT
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings

Notes = Callable[[str], None]
FAILED_NODE = ".failed-node"
"""File in the run folder by which a node tells the others that its ranks have failed."""
ProgressFactory = Callable[[], AbstractContextManager[Progress]]


def launch(settings: TrainSettings, words: Sequence[str], progress: ProgressFactory, notes: Notes) -> RunFolder:
    """Train by `settings` on the best rung that this machine, or this Slurm step, can serve. Returns the finished run.

    `words` are those of `triage`, from which each rank reads the very same settings. A rung of one process trains in
    this process; the ranks of others are started by `accelerate launch`.
    Raises TrainingInterrupted or StoppedBeforeTraining when a signal ended it, TriageError for what the user can mend
    (an error that all ranks have arrives once), RanksFailed for any other end of the ranks.
    """
    folder = RunFolder(Path(settings.output) / settings.run_name)
    place = rendezvous.from_slurm()
    if folder.is_finished or (settings.hardware.rung == "none" and place is None):
        return train_here(settings, None, progress, notes)
    if idle := rendezvous.nodes_left_out():
        notes(f"{idle} of this job's nodes stay idle: over several nodes, start with srun --ntasks-per-node=1.")
    choice = choose_rung(settings, place.nodes if place else 1, notes)
    # Refuses a folder that holds another run, before anything is tried for it.
    RunFolder.create(folder.folder, settings.model_dump(mode="json"), to_yaml(settings))
    force = settle_rung(settings, choice.force, choice.devices, folder, place, notes)
    if force.rung.world == 1:
        return train_here(settings, force, progress, notes)
    attempt = attempt_name(os.environ)
    failure_file = folder.folder / FAILED_NODE
    if place is None or place.node_rank == 0:
        # From an earlier start of the same attempt, it would be taken for the end of this one.
        folder.stopped.unlink(missing_ok=True)
        failure_file.unlink(missing_ok=True)
    end = run_ranks(force, place, "triagekit", words, {ATTEMPT: attempt}, failure_file=failure_file if place else None)
    return settle_outcome(folder, end, attempt)


def train_here(
    settings: TrainSettings, force: RungInForce | None, progress: ProgressFactory, notes: Notes
) -> RunFolder:
    """Train in this process."""
    from triagekit.training.train import train

    with force.in_this_process() if force else contextlib.nullcontext(), progress() as bar:
        return train(settings, bar, notes)
