"""Caches, scratch and temporary folders: there, writable, with room, on $HOME, shared between nodes?"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from triagekit.cluster.doctor.finding import Finding

SECTION = "Folders"
NAME_ANOTHER = "Name a folder that you may write to."
LITTLE_ROOM = 10 * 1024**3
"""Bytes: less than a 3 B base with its checkpoints needs."""
SOCKET_PATH = 107
"""Bytes of a UNIX socket's path on Linux, its closing zero left out."""
RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path that Ray makes below its temporary folder, process id at its longest."""

SHARED_SYSTEMS = set(
    "nfs nfs4 lustre gpfs beegfs fhgfs ceph cifs smb3 glusterfs panfs wekafs orangefs afs 9p pvfs2".split()  # noqa: SIM905
)
"""File system types that several nodes mount."""


@dataclass(frozen=True)
class Place:
    """What is known about a folder; `system` is the file system's type ("" if unknown)."""

    path: Path
    exists: bool
    writable: bool
    free: int
    system: str
    on_home: bool

    @property
    def shared(self) -> bool:
        """Whether other nodes can be expected to see it."""
        return self.system in SHARED_SYSTEMS or self.system.startswith("fuse.")


def look_at(path: Path) -> Place:
    """Without writing anything; for a missing folder, room and type are those of its nearest parent."""
    path = path.expanduser()
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    home = Path.home().resolve()
    return Place(
        path=path,
        exists=path.is_dir(),
        writable=existing.is_dir() and os.access(existing, os.W_OK | os.X_OK),
        free=shutil.disk_usage(existing).free,
        system=_system_of(existing.resolve()),
        on_home=home in (resolved := path.resolve()).parents or resolved == home,
    )


def try_writing(path: Path) -> str:
    """Why a small file cannot be written there (quota, full disk, read-only); "" when it can. It leaves nothing."""
    try:
        with tempfile.TemporaryFile(dir=path) as handle:
            handle.write(bytes(4096))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def expand(text: str) -> str:
    """`~`, `$NAME`, `${NAME}` and `${NAME:-else}` from this process's environment; unknown names stay."""

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["plain"]
        known = os.environ.get(name, "") or (getpass.getuser() if name in {"USER", "LOGNAME"} else "")
        if known or match["otherwise"] is not None:
            return known or expand(match["otherwise"])
        return match[0]

    pattern = r"\$(?:\{(?P<braced>\w+)(?::-(?P<otherwise>(?:[^{}]|\{[^{}]*\})*))?\}|(?P<plain>\w+))"
    return str(Path(re.sub(pattern, value, text)).expanduser())


def hub_home(variables: Mapping[str, str] = os.environ) -> Path:
    """Where Hugging Face libraries keep their files: HF_HOME, else below XDG_CACHE_HOME, else below ~/.cache."""
    cache = variables.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(variables.get("HF_HOME") or f"{cache}/huggingface").expanduser()


def check_folders(on_cluster: bool, scratch: str | None = None, cache: str | None = None) -> list[Finding]:
    """The caches, the site's folders, and the temporary folder. `on_cluster`: other nodes must see them too.

    `scratch` and `cache` are a site's, variables expanded.
    """
    findings = [_check_cache(Path(cache) if cache else hub_home(), "site's cache" if cache else "HF_HOME", on_cluster)]
    if scratch:
        findings.append(_check_seen(_check_writable(Path(scratch), "site's scratch", True), Path(scratch), on_cluster))
    findings.append(_check_seen(_check_writable(Path.cwd(), "working folder"), Path.cwd(), on_cluster))
    environment = Path(sys.prefix)
    findings.append(_check_seen(Finding(SECTION, "environment", "ok", str(environment)), environment, on_cluster))
    findings.append(check_temporary())
    return findings


def check_temporary(variables: Mapping[str, str] = os.environ) -> Finding:
    """The folder below which Ray makes its sockets, whose paths may not be longer than the system allows."""
    folder = variables.get("RAY_TMPDIR") or variables.get("TMPDIR") or tempfile.gettempdir()
    longest = len(os.fsencode(folder + RAY_SOCKET))
    place = look_at(Path(folder))
    if not place.exists or not place.writable:
        state = "cannot be written" if place.exists else "does not exist"
        return Finding(SECTION, "temporary", "problem", f"{folder} {state}", "export TMPDIR=/tmp")
    if longest > SOCKET_PATH:
        most = SOCKET_PATH - len(RAY_SOCKET)
        detail = f"{folder} has {len(folder)} characters; below more than {most} of them Ray cannot make its sockets"
        return Finding(SECTION, "temporary", "problem", detail, "export RAY_TMPDIR=/tmp")
    if place.shared:
        detail = f"{folder} ({place.system}) is a network file system, where sockets of other nodes get in the way"
        return Finding(SECTION, "temporary", "note", detail, "export RAY_TMPDIR=/tmp")
    return Finding(SECTION, "temporary", "ok", f"{folder}, short enough for Ray, {_room(place)}")


def _check_cache(path: Path, name: str, on_cluster: bool) -> Finding:
    finding = _check_writable(path, name, made_when_needed=True)
    place = look_at(path)
    if finding.status != "ok":
        return finding
    if on_cluster and place.on_home:
        detail = f"{finding.detail}; $HOME often has a small quota, and a 3 B base takes 6 GB"
        fix = "export HF_HOME=<a folder on scratch>, and `cache:` in the site profile"
        return Finding(SECTION, name, "note", detail, fix)
    return _check_seen(finding, path, on_cluster)


def _check_seen(finding: Finding, path: Path, on_cluster: bool) -> Finding:
    """The finding, or a note in its place where the folder lies on a disk of this machine alone."""
    place = look_at(path)
    if finding.status != "ok" or not on_cluster or place.shared:
        return finding
    system = f" ({place.system})" if place.system else ""
    detail = f"{finding.detail}; a disk of this machine{system}: do the nodes see it?"
    return Finding(SECTION, finding.name, "note", detail, "If not: a folder on a shared file system.")


def _check_writable(path: Path, name: str, made_when_needed: bool = False) -> Finding:
    if "$" in str(path):
        return Finding(SECTION, name, "note", f"{path} holds a variable that is only set inside jobs: not checked")
    place = look_at(path)
    if not place.exists and not (made_when_needed and place.writable):
        can = f"mkdir -p {path}" if place.writable else NAME_ANOTHER
        return Finding(SECTION, name, "problem", f"{path} does not exist", can)
    refused = try_writing(path) if place.exists else ""
    if refused or not place.writable:
        detail = f"{path} cannot be written{': ' + refused if refused else ''}"
        fix = "Free some (quota -s), or name another folder." if _is_full(refused) else NAME_ANOTHER
        return Finding(SECTION, name, "problem", detail, fix)
    missing = "" if place.exists else " (made when needed)"
    system = f", shared ({place.system})" if place.shared else ""
    detail = f"{path}{missing}, {_room(place)}{system}"
    if place.free < LITTLE_ROOM:
        return Finding(SECTION, name, "note", f"{detail}: little room", "Free some, or name another folder.")
    return Finding(SECTION, name, "ok", detail)


def _is_full(refused: str) -> bool:
    return "quota" in refused or "no space" in refused


def _room(place: Place) -> str:
    return f"{place.free / 1024**3:.0f} GiB free"


def _system_of(path: Path) -> str:
    """Type of the file system that holds `path`, from the longest mount point above it."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    mounts = [(Path(words[1].replace("\\040", " ")), words[2]) for line in lines if len(words := line.split()) > 2]
    holding = [(len(point.parts), kind) for point, kind in mounts if point == path or point in path.parents]
    # Of two mounts on one point the later hides the earlier.
    return max(enumerate(holding), key=lambda item: (item[1][0], item[0]))[1][1] if holding else ""
