"""Checkpoints that can be trusted: written aside, synced, renamed; checksums in a marker that comes last.

Resuming from a half-written checkpoint is the classic way to lose a run (transformers #35782, diffusion-pipe #159).
Here a folder without its marker, or with a file that no longer matches it, is never resumed from.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from triagekit.errors import TriageError
from triagekit.files.atomic import atomic_folder, fsync_tree, write_json
from triagekit.files.fingerprint import sha256_file
from triagekit.training.disk import disk_advice
from triagekit.training.process_group import ProcessGroup

MARKER = "COMPLETE"
_NAME = re.compile(r"checkpoint-(\d+)$")


def checkpoint_path(root: Path, step: int) -> Path:
    """Folder of the checkpoint made after `step` optimizer steps."""
    return root / f"checkpoint-{step}"


def checkpoint_step(folder: Path) -> int:
    """The optimizer step that a checkpoint folder's name tells."""
    match = _NAME.search(folder.name)
    if match is None:
        raise ValueError(f"{folder} is not named like a checkpoint")
    return int(match.group(1))


def write_checkpoint(root: Path, step: int, write: Callable[[Path], None], group: ProcessGroup | None = None) -> Path:
    """Let `write` fill a folder, then complete it: files on disk → checksums marker → renamed into place.

    With a `group` every process calls this and writes its own files into the one folder; the first process completes
    it. `write` must not talk to the other processes. An error in one process is raised in all, with nothing left
    behind. Raises TriageError when the file system is full or a process does not see the folder.
    """
    group = group or ProcessGroup()
    target = checkpoint_path(root, step)
    with contextlib.ExitStack() as opened:
        name = ""
        with group.together(), disk_advice(root):
            if group.main:
                name = opened.enter_context(atomic_folder(target)).name
        folder = root / group.text_of(0, name)
        with group.together(), disk_advice(root):
            if not folder.is_dir():
                raise TriageError(f"{folder} is not there: all nodes of a run must see the same `output` folder.")
            write(folder)
        with group.together(), disk_advice(root):
            if group.main:
                fsync_tree(folder)
                files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
                sums = {str(path.relative_to(folder)): sha256_file(path) for path in files}
                write_json(folder / MARKER, {"step": step, "files": sums})
                opened.close()
    return target


def fault(folder: Path) -> str | None:
    """Why this checkpoint cannot be used; None if it is complete and every file matches its checksum."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        files: dict[str, str] = marker["files"]
    except FileNotFoundError:
        return "it was never completed"
    except (ValueError, KeyError, OSError):
        return "its marker is damaged"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256_file(path) != expected:
            return f"{name} is damaged (its checksum differs)"
    return None


def all_checkpoints(root: Path) -> list[Path]:
    """Checkpoint folders, complete or not, oldest step first."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if path.is_dir() and _NAME.match(path.name)), key=checkpoint_step)


def newest_usable(
    root: Path, notes: Callable[[str], None], best_step: Callable[[Path], int | None] = lambda folder: None
) -> Path | None:
    """The newest complete and undamaged checkpoint; unusable ones and leftovers of a kill are removed, with a note.

    `best_step` reads from a checkpoint which step was best until then: its weights must be there and whole too, since
    they may become the result.
    """
    if not root.is_dir():
        return None
    for leftover in [path for path in root.iterdir() if path.name.startswith(".checkpoint-")]:
        # `.old` is the former copy of a checkpoint whose replacement was cut off between two renames.
        original = root / leftover.name.split(".")[1]
        if leftover.name.endswith(".old") and not original.exists() and fault(leftover) is None:
            leftover.rename(original)
            continue
        shutil.rmtree(leftover)
        notes(f"Removed {leftover.name}: its writing was cut off.")
    for folder in reversed(all_checkpoints(root)):
        reason = fault(folder)
        if reason is None:
            best = best_step(folder)
            if best is None or best == checkpoint_step(folder) or fault(checkpoint_path(root, best)) is None:
                return folder
            reason = f"the best one before it, checkpoint-{best}, is missing or damaged"
        shutil.rmtree(folder)
        notes(f"Removed {folder.name}: {reason}.")
    return None


def rotate(root: Path, keep: int, best_step: int | None) -> None:
    """Delete all but the `keep` newest checkpoints and the best one."""
    for folder in all_checkpoints(root)[:-keep]:
        if checkpoint_step(folder) != best_step:
            shutil.rmtree(folder)
