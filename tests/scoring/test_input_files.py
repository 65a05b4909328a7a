"""The content of an archive is hashed once: again only where a file may have changed, whatever its times are set to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triagekit.files import file_state
from triagekit.files.fingerprint import sha256_file
from triagekit.scoring import input_files as module
from triagekit.scoring.input_files import INPUT_FILE, input_files, note_input


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.csv", "b.csv", "deep/c.csv"):
        (folder / name).write_text(f"id,text\n{name},printer\n")
    return folder


@pytest.fixture
def started(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A start of a job over the archive; the names of the files that it has read."""
    monkeypatch.setattr(file_state, "SETTLED_SECONDS", 0)
    out = tmp_path / "out"
    out.mkdir()

    def start() -> list[str]:
        read: list[str] = []

        def counted(path: Any) -> str:
            read.append(path.name)
            return sha256_file(path)

        with monkeypatch.context() as patch:
            patch.setattr(module, "sha256_file", counted)
            files = input_files(str(archive), [tmp_path / "nothing", out])
        assert [(item.name, item.sha256) for item in files] == [
            (name, sha256_file(archive / name)) for name in ("a.csv", "b.csv", "deep/c.csv")
        ]
        note_input(out, str(archive), files)
        return read

    return start


def test_only_what_has_changed_is_read_again(archive: Path, started: Callable[[], list[str]]) -> None:
    assert started() == ["a.csv", "b.csv", "c.csv"]
    assert started() == []
    with (archive / "b.csv").open("a") as handle:
        handle.write("b2,vpn\n")
    assert started() == ["b.csv"]
    assert started() == []


def test_a_change_that_size_and_time_do_not_show(archive: Path, started: Callable[[], list[str]]) -> None:
    started()
    path = archive / "a.csv"
    before = path.stat()

    def put_back() -> None:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    path.write_text(path.read_text().replace("printer", "scanner"))
    put_back()
    assert started() == ["a.csv"]
    other = archive.parent / "other.csv"
    other.write_text(path.read_text().replace("scanner", "plotter"))
    other.replace(path)
    put_back()
    assert started() == ["a.csv"]


def test_what_was_changed_a_moment_ago_is_read_again(
    archive: Path, started: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change once more within the same tick of a clock."""
    monkeypatch.undo()
    assert started() == started() == ["a.csv", "b.csv", "c.csv"]
    old = archive.stat().st_mtime_ns - 3600 * 10**9
    os.utime(archive / "a.csv", ns=(old, old))
    assert started() == ["a.csv", "b.csv", "c.csv"], "its inode has just changed"


def test_notes_that_are_of_no_use(archive: Path, tmp_path: Path, started: Callable[[], list[str]]) -> None:
    everything = started()
    note = tmp_path / "out" / INPUT_FILE
    content = note.read_text(encoding="utf-8")
    for damaged in (content[:-9], "[]", "{}", content.replace('"file"', '"fill"', 1)):
        note.write_text(damaged, encoding="utf-8")
        assert started() == everything
    assert started() == []
    note.write_text(content.replace(str(archive), str(tmp_path / "another")), encoding="utf-8")
    assert started() == everything
    moved = archive.rename(tmp_path / "moved")
    shutil.copytree(moved, archive)
    assert started() == everything
