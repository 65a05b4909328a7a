"""What a file system says of a file without reading it: as long as that is the same, so is the content."""

from __future__ import annotations

import time
from pathlib import Path

from triagekit.files.remote import AnyPath

SETTLED_SECONDS = 60.0
"""Clocks of file systems tick in up to two seconds, and a server's clock is not ours: a file that was changed less than this
before it is looked at may change once more and say the same."""


def file_state(path: AnyPath) -> dict[str, int] | None:
    """Size and times of a file, and on this machine its inode; None where they would not show another change.

    The time of the last change of the inode is among them: unlike that of the content it cannot be set back.
    """
    now = time.time_ns()
    if isinstance(path, Path):
        found = path.stat()
        state = {
            "size": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "ctime_ns": found.st_ctime_ns,
            "inode": found.st_ino,
        }
    else:
        size, modified = path.size(), path.modified_ns()
        if size is None or modified is None:
            return None
        state = {"size": size, "mtime_ns": modified}
    latest = max(state["mtime_ns"], state.get("ctime_ns", 0))
    return state if now - latest > SETTLED_SECONDS * 1e9 else None
