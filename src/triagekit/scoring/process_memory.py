"""Memory of a process that has loaded what it needs and now works through tickets."""

from __future__ import annotations

import ctypes
import gc

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names of mallopt's settings in glibc's malloc.h."""
_KEPT_BYTES = 512 * 1024**2
_GROWTH_BYTES = 64 * 1024**2
_LARGEST_BYTES = (256 * 1024**2, 32 * 1024**2)
"""Of a piece that is kept: what we want, and the most that older versions take."""


def prepare_for_tickets() -> None:
    """Call once all is loaded. Not for a process that loads one model after the other: see `keep_what_is_loaded`."""
    keep_what_is_loaded()
    keep_what_is_freed()


def keep_what_is_loaded() -> None:
    """Leave everything that is in memory now out of the collections of garbage to come.

    torch and transformers bring about a million objects; walking over them takes a fifth of a second, again and again while a
    shard is scored, and finds nothing. Not for a process that loads one model after the other: cycles among what is left out are
    never freed.
    """
    gc.collect()
    gc.freeze()


def keep_what_is_freed() -> bool:
    """Let the C library hand a tensor's memory to the next one, instead of giving it back and asking for it again.

    It gives back large pieces at once, and the system clears every page that it hands out anew: where passes are short, that is
    a tenth of the time. Up to 512 MiB stay with the process. Whether the library can be told: glibc can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or a system that has no such handle
        return False
    # Any setting ends the library's own search for a good bound on pieces. Without that bound, the others do harm.
    if not any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_BYTES):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_TOP_PAD, _GROWTH_BYTES))
