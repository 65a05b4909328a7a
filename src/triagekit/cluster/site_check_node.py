"""What a site profile expects of the machine itself: folders, modules, the interpreter."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from triagekit.cluster.doctor.finding import Finding
from triagekit.cluster.doctor.folders import (
    LITTLE_ROOM,
    NAME_ANOTHER,
    RAY_SOCKET,
    SOCKET_PATH,
    expand,
    look_at,
    try_writing,
)
from triagekit.cluster.sites import SiteSettings
from triagekit.errors import did_you_mean

SECTION = "here"
_SECONDS = 60
_LIST_MODULES = """
type module >/dev/null 2>&1 || exit 3
module --terse avail 2>&1
"""


def check_node(site: SiteSettings) -> list[Finding]:
    """Folders, modules and interpreter as seen from this machine, which on most clusters is what jobs see too."""
    findings = []
    for name, value in (("scratch", site.scratch), ("cache", site.cache)):
        if value is not None:
            findings.append(check_folder(name, value))
    if site.modules:
        findings += check_modules(site.modules, available_modules())
    if site.python is not None:
        findings.append(_check_python(site.python, activated=bool(site.before or site.modules)))
    most = SOCKET_PATH - len(RAY_SOCKET)
    if "$" not in site.temporary and len(site.temporary) > most:
        detail = f"{site.temporary} is longer than {most} characters: Ray cannot make its sockets below it"
        findings.append(Finding(SECTION, "temporary", "problem", detail, "temporary: /tmp"))
    return findings


def check_folder(name: str, value: str) -> Finding:
    """Whether the folder is there (or can be made) and takes files."""
    path = expand(value)
    if "$" in path:
        detail = f"{value} holds a variable that is only set inside jobs: not checked"
        return Finding(SECTION, name, "note", detail)
    place = look_at(Path(path))
    refused = try_writing(place.path) if place.exists else ""
    if refused:
        return Finding(SECTION, name, "problem", f"{path} cannot be written: {refused}", NAME_ANOTHER)
    if place.exists:
        if place.free < LITTLE_ROOM:
            room = f"{place.free / 1024**3:.1f} GiB free: little room"
            return Finding(SECTION, name, "note", f"{path}, {room}", "Free some, or name another folder.")
        return Finding(SECTION, name, "ok", f"{path}, {place.free / 1024**3:.0f} GiB free")
    if place.writable:
        return Finding(SECTION, name, "ok", f"{path}, made when needed, {place.free / 1024**3:.0f} GiB free")
    detail = f"{path} does not exist and cannot be made here"
    return Finding(SECTION, name, "problem", detail, f"{name}: a folder that you may write to, on a shared disk")


def available_modules() -> list[str] | None:
    """Names from `module avail` in a login shell; None where there is no `module` command."""
    bash = shutil.which("bash")
    if bash is None:
        return None
    try:
        done = subprocess.run(
            [bash, "-lc", _LIST_MODULES], capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 3:
        return None
    words = (line.strip() for line in done.stdout.splitlines())
    return [re.sub(r"\((default|D|L)[^)]*\)$", "", word) for word in words if word and not word.endswith((":", "/"))]


def check_modules(wanted: list[str], available: list[str] | None) -> list[Finding]:
    """Each module that is not to be had, with the nearest that is. A name without version stands for all versions."""
    if available is None:
        detail = f"{', '.join(wanted)}: no `module` command in a login shell here"
        fix = "Leave `modules:` empty, or `shell: /bin/bash --login` and try on a login node."
        return [Finding(SECTION, "modules", "problem", detail, fix)]
    known = set(available) | {name.rpartition("/")[0] for name in available}
    missing = [name for name in wanted if name not in known]
    if not missing:
        return [Finding(SECTION, "modules", "ok", ", ".join(wanted))]
    return [
        Finding(SECTION, "modules", "problem", f"no module '{name}'", did_you_mean(name, sorted(known - {""})))
        for name in missing
    ]


def _check_python(python: str, activated: bool) -> Finding:
    path = expand(python)
    if activated and "/" not in path:
        detail = f"{python}, of the environment that modules and `before` set up in the job: not checked"
        return Finding(SECTION, "python", "note", detail)
    if "$" in path:
        return Finding(
            SECTION, "python", "note", f"{python} holds a variable that is only set inside jobs: not checked"
        )
    found = shutil.which(path)
    if found is None:
        fix = "python: the path of the environment's interpreter, e.g. /home/me/triage/.venv/bin/python"
        return Finding(SECTION, "python", "problem", f"{path} is no program that can be run", fix)
    return Finding(SECTION, "python", "ok", found)
