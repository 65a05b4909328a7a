"""The content of an archive's files, by which a job knows its input: hashed once, and again only where a file has changed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triagekit.data.sources import file_name, source_files
from triagekit.files.atomic import write_json
from triagekit.files.file_state import file_state
from triagekit.files.fingerprint import sha256_file
from triagekit.files.remote import AnyPath, any_path

INPUT_FILE = "input.json"


@dataclass(frozen=True)
class InputFile:
    """A file of the archive. `state` (file_state) was taken before the content was read; None where it says too little."""

    name: str
    sha256: str
    state: dict[str, int] | None


def input_files(archive: str, folders: Iterable[Path] = ()) -> list[InputFile]:
    """The files of the archive. Each is read whole, but those that a job in one of `folders` has noted and that have not
    changed since.

    A state that lies costs no row: a shard is held against its own fingerprint when it is read.
    """
    place = any_path(archive)
    noted = _noted(place, folders)
    found = []
    for path in source_files(place):
        name, state = file_name(path, place), file_state(path)
        known = None if state is None else noted.get(_key(name, state))
        found.append(InputFile(name, known or sha256_file(path), state))
    return found


def note_input(folder: Path, archive: str, files: Iterable[InputFile]) -> None:
    """Write input.json for the next start, without the files whose state says too little."""
    noted = [{"file": item.name, "sha256": item.sha256, **item.state} for item in files if item.state is not None]
    note = {"archive": _shown(any_path(archive)), "files": noted}
    if _read(folder) != note:
        write_json(folder / INPUT_FILE, note)


def _noted(place: AnyPath, folders: Iterable[Path]) -> dict[tuple[str, tuple[tuple[str, int], ...]], str]:
    """Digests by name and state, of this archive at this place."""
    found = {}
    for folder in folders:
        note = _read(folder)
        if note is None or note.get("archive") != _shown(place):
            continue
        for item in note["files"]:
            state = {name: value for name, value in item.items() if name not in ("file", "sha256")}
            found[_key(item["file"], state)] = str(item["sha256"])
    return found


def _read(folder: Path) -> dict[str, Any] | None:
    """The note; None where there is none, or it is damaged: everything is read again then."""
    try:
        note = json.loads((folder / INPUT_FILE).read_text(encoding="utf-8"))
        whole = all({"file", "sha256"} <= item.keys() for item in note["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return note if whole else None


def _key(name: str, state: dict[str, int]) -> tuple[str, tuple[tuple[str, int], ...]]:
    return name, tuple(sorted(state.items()))


def _shown(place: AnyPath) -> str:
    """Where it lies, without keys and passwords."""
    return str(place.absolute() if isinstance(place, Path) else place)
