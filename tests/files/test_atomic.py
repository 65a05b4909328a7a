"""A kill at any moment leaves the old version or the new one, never half of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from triagekit.files import atomic


def test_write_text_replaces_whole_file(tmp_path):
    target = tmp_path / "inner" / "file.txt"
    atomic.write_text(target, "old")
    atomic.write_text(target, "nëw")
    assert target.read_text(encoding="utf-8") == "nëw"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_failed_write_keeps_the_old_version_and_leaves_nothing_behind(tmp_path):
    target = tmp_path / "file.json"
    atomic.write_json(target, {"a": 1})
    with pytest.raises(ValueError):
        atomic.write_json(target, {"a": float("nan")})
    with pytest.raises(RuntimeError), atomic.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert json.loads(target.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_mode_follows_the_umask_so_that_a_group_can_read(tmp_path):
    target = tmp_path / "file.txt"
    atomic.write_text(target, "x")
    plain = tmp_path / "plain.txt"
    plain.write_text("x")
    assert target.stat().st_mode == plain.stat().st_mode


def test_folder_is_replaced_in_one_step(tmp_path):
    target = tmp_path / "adapter"
    for version in ("one", "two"):
        with atomic.atomic_folder(target) as temporary:
            (temporary / "weights").write_text(version)
            (temporary / version).touch()
    assert sorted(path.name for path in target.iterdir()) == ["two", "weights"]
    with pytest.raises(RuntimeError), atomic.atomic_folder(target) as temporary:
        (temporary / "weights").write_text("three")
        raise RuntimeError("killed")
    assert (target / "weights").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_kill_nine_leaves_a_complete_version(tmp_path):
    target = tmp_path / "big.txt"
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from triagekit.files.atomic import write_text
        for n in range(10**6):
            write_text(Path(sys.argv[1]), str(n % 10) * 200_000)
        """
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(target)])
    deadline = time.monotonic() + 30
    while not target.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    text = target.read_text()
    assert len(text) == 200_000
    assert len(set(text)) == 1
