"""A finished archive job copied to an object store or a remote file system, manifest.json last."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triagekit.errors import TriageError
from triagekit.files.atomic import write_json
from triagekit.files.fingerprint import sha256_file
from triagekit.files.remote import RemotePath, any_path
from triagekit.progress import Progress, SilentProgress
from triagekit.scoring.input_files import INPUT_FILE
from triagekit.scoring.job_card import JOB_FILE
from triagekit.scoring.manifest import MANIFEST_FILE
from triagekit.scoring.status import STATUS_FILE

INDEX_FILE = "published.json"
"""On the other side: digest of each file that was copied whole."""
INDEX_EVERY = 20
_NOT_COPIED = ("jobs", STATUS_FILE, INPUT_FILE)
"""Logs of the jobs that scored, how far a running one is, and what it knows of its input's files."""


@dataclass(frozen=True)
class Published:
    """What a call has done. `copied` of `files` were new or had changed."""

    url: str
    files: int
    copied: int

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"url": self.url, "files": self.files, "copied": self.copied}


def publish_scores(folder: Path, url: str, progress: Progress | None = None) -> Published:
    """Copy the folder of a finished archive job to `url`; stopped at any moment, the same call goes on.

    A file that is there already with the same content is left. While anything is missing there is no manifest.json on
    the other side. Raises TriageError for a job that is not finished, a URL that cannot be used or reached, and where
    another job's scores lie there.
    """
    if not (folder / MANIFEST_FILE).is_file():
        raise TriageError(f"{folder} is not finished: it has no {MANIFEST_FILE}. Run `triage score` again first.")
    target = check_target(url)
    _refuse_strangers(folder, target)
    index = _read_index(target)
    files = _files(folder)
    bar = progress or SilentProgress()
    bar.start("publishing", len(files))
    copied = 0
    (target / MANIFEST_FILE).remove()
    for path in files:
        name = path.relative_to(folder).as_posix()
        digest = sha256_file(path)
        if index.get(name) != digest or (target / name).size() != path.stat().st_size:
            (target / name).write_from(path)
            index[name] = digest
            copied += 1
            if copied % INDEX_EVERY == 0:
                _write_index(target, index)
        bar.advance()
    _write_index(target, index)
    (target / MANIFEST_FILE).write_from(folder / MANIFEST_FILE)
    bar.finish()
    return Published(str(target), len(files) + 1, copied + 1)


def check_target(url: str) -> RemotePath:
    """The place that scores are copied to. Raises TriageError where `url` is none."""
    target = any_path(url)
    if not isinstance(target, RemotePath):
        raise TriageError(f"publish: '{url}' is no URL. Give one such as s3://bucket/scores/2024.")
    return target


def _files(folder: Path) -> list[Path]:
    """What is copied before the manifest: job.json first, so that whose scores these are is known from the beginning."""
    found = [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.relative_to(folder).parts[0] not in (*_NOT_COPIED, MANIFEST_FILE)
    ]
    return sorted(found, key=lambda path: (path.name != JOB_FILE, path.relative_to(folder).as_posix()))


def _refuse_strangers(folder: Path, target: RemotePath) -> None:
    there = target / JOB_FILE
    if not there.is_file():
        return
    ours = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))["fingerprint"]
    try:
        theirs = json.loads(there.read_bytes())["fingerprint"]
    except (ValueError, KeyError, TypeError):
        theirs = "unreadable"
    if theirs != ours:
        raise TriageError(
            f"{target} holds another job's scores (job {theirs}, here {ours}). Give another place, or remove them there."
        )


def _read_index(target: RemotePath) -> dict[str, str]:
    place = target / INDEX_FILE
    if not place.is_file():
        return {}
    try:
        return dict(json.loads(place.read_bytes()))
    except ValueError:
        return {}


def _write_index(target: RemotePath, index: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="triagekit-") as folder:
        write_json(Path(folder) / INDEX_FILE, index)
        (target / INDEX_FILE).write_from(Path(folder) / INDEX_FILE)
