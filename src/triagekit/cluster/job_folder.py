"""`<owner>/jobs/<n>-<kind>/`: what was submitted, as it was submitted, and its logs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triagekit.errors import TriageError
from triagekit.files.atomic import write_json

_FOLDER = re.compile(r"(\d+)-([a-z]+)")


@dataclass(frozen=True)
class JobFolder:
    """One submission. The owner is the folder that the job works for: a run, a sweep, an archive's scores."""

    folder: Path

    @property
    def script(self) -> Path:
        """The batch script as submitted."""
        return self.folder / "job.sbatch"

    @property
    def card(self) -> Path:
        """job.json: job id, site, rung, rungs passed over, configuration, time; without an id while submitting."""
        return self.folder / "job.json"

    @property
    def config(self) -> Path:
        """The settings as resolved at submission: what the job reads, whatever becomes of the original."""
        return self.folder / "config.yaml"

    @property
    def ladder(self) -> Path:
        """The ladder with the site's changes, where it has some."""
        return self.folder / "ladder.yaml"

    @property
    def kind(self) -> str:
        """train, sweep, …"""
        return self.folder.name.partition("-")[2]

    @property
    def owner(self) -> Path:
        """The folder that holds `jobs/`."""
        return self.folder.parent.parent

    def read(self) -> dict[str, Any]:
        """The card; {} before it is written. Raises TriageError when it is damaged."""
        try:
            return dict(json.loads(self.card.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise TriageError(f"{self.card} is damaged: {error}.") from None

    def write(self, card: Mapping[str, Any]) -> None:
        """Replace the card."""
        write_json(self.card, dict(card))


def is_job_folder(folder: Path) -> bool:
    """Whether the path has the form `…/jobs/<n>-<kind>`."""
    return folder.parent.name == "jobs" and _FOLDER.fullmatch(folder.name) is not None


def job_folders(owner: Path) -> list[JobFolder]:
    """All submissions of a run (or sweep, …), oldest first."""
    root = owner / "jobs"
    if not root.is_dir():
        return []
    found = [entry for entry in root.iterdir() if entry.is_dir() and is_job_folder(entry)]
    return [JobFolder(entry) for entry in sorted(found, key=lambda entry: int(entry.name.partition("-")[0]))]


def next_job_folder(owner: Path, kind: str, *, dry_run: bool = False) -> Path:
    """A new `<owner>/jobs/<n>-<kind>`; with `dry_run` it is only named, not made."""
    number = max((int(job.folder.name.partition("-")[0]) for job in job_folders(owner)), default=0) + 1
    while True:
        folder = owner / "jobs" / f"{number}-{kind}"
        if dry_run:
            return folder
        (owner / "jobs").mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            # Somebody submits for the same owner at this very moment.
            number += 1
