"""A full disk or quota, told as what it is, with what to do; whatever the library that met it made of it."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

from triagekit.errors import TriageError

FULL = {
    errno.ENOSPC: "the file system is full",
    errno.EDQUOT: "your quota on it is used up",
    errno.EFBIG: "a file would be larger than this account's limit (ulimit -f)",
}
_RUST = re.compile(r"os error (\d+)")


def full_disk(error: BaseException) -> str | None:
    """Why nothing more can be written, if that is what `error` says; else None."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := _RUST.search(str(error))):
        # safetensors keeps only the text of the system's error.
        number = int(match.group(1))
    return FULL.get(number) if number is not None else None


@contextlib.contextmanager
def disk_advice(folder: Path) -> Iterator[None]:
    """Turn a full disk or quota into a TriageError that names `folder` and what to do."""
    try:
        yield
    except Exception as error:
        reason = full_disk(error)
        if reason is None or isinstance(error, TriageError):
            raise
        raise TriageError(
            f"Nothing more can be written below {folder}: {reason}. The newest complete checkpoint is untouched. Make "
            "room (triage runs rm NAME, a smaller checkpoints.keep) or move the run folder to a larger file system "
            "(output=…); the same command goes on from that checkpoint."
        ) from error
