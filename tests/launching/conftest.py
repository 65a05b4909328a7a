"""A stand-in for Slurm's scontrol, and the variables of a step."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Call it with names (or rc and words): `scontrol show hostnames` then prints them."""

    def make(*names, code=0, error=""):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        lines = [f"echo {name}" for name in names]
        asked = f'echo "$@" > {folder}/asked'
        script = "\n".join(["#!/bin/sh", asked, *lines, f"echo '{error}' >&2", f"exit {code}", ""])
        (folder / "scontrol").write_text(script, encoding="utf-8")
        (folder / "scontrol").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return folder / "asked"

    return make
