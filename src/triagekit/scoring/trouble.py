"""Two ends that a job can meet through no fault of its tickets: no memory left, no room on the disk."""

from __future__ import annotations

import errno
from pathlib import Path

from triagekit.errors import TriageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in main memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # On a CPU torch raises the bare class; the words are those of its allocator.
    told = str(error).casefold()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in told or "out of memory" in told)


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed because the disk, the quota or the permitted size of a file is used up."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def disk_full(folder: Path, error: BaseException) -> TriageError:
    """What a person is told of it."""
    return TriageError(
        f"There is no room left to write in {folder} ({error}). Parts already written stay good: make room, and run the "
        "same command again."
    )


def release_memory() -> None:
    """Give back what torch keeps for later on a GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
