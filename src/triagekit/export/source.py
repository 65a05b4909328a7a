"""What an export is made from: a finished run, or a folder that `triage export merge` has made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triagekit.errors import TriageError
from triagekit.modeling.adapter_folder import CARD, read_card
from triagekit.training.run_folder import RunFolder

RECORD = "export.json"
"""What every exported folder says of itself; written last."""


@dataclass(frozen=True)
class ExportSource:
    """A finished run with the card of its adapter."""

    run: RunFolder
    card: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the run."""
        return self.run.name

    @property
    def plan(self) -> dict[str, Any]:
        """plan.json; {} where the run has none."""
        return self.run.read(self.run.plan)

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json; {} where the run has none."""
        return self.run.read(self.run.summary)


def open_run(run: Path) -> ExportSource:
    """The finished run at `run`. Raises TriageError for anything else, saying what is there."""
    folder = RunFolder.open(run)
    if not (folder.adapter / CARD).is_file():
        raise TriageError(
            f"{run} has no adapter yet: it is {folder.status}. "
            f"Finish it with: triage train {folder.config} --name {folder.name}"
        )
    return ExportSource(folder, read_card(folder.adapter))


def is_merged(folder: Path) -> bool:
    """Whether `folder` was made by `triage export merge`."""
    return (folder / CARD).is_file() and bool(read_card(folder).get("merged"))


def check_target(target: Path, kind: str) -> None:
    """Refuse to write over anything but an earlier export of the same kind.

    Raises TriageError for a folder that holds something else, or a file where a folder is to be.
    """
    if not target.exists():
        return
    if target.is_file():
        raise TriageError(f"{target} is a file; the {kind} export is a folder. Give another --out.")
    if not any(target.iterdir()):
        return
    if read_record(target).get("kind") != kind:
        raise TriageError(f"{target} holds something that is no {kind} export. Give a new folder, or empty that one.")


def read_record(folder: Path) -> dict[str, Any]:
    """export.json of an exported folder; {} where there is none."""
    try:
        return dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise TriageError(f"{folder / RECORD} is damaged: {error}. Export again into another folder.") from None
