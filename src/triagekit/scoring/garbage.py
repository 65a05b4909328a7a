"""Python's collections of garbage, in a process that has loaded what it needs and now works through tickets."""

from __future__ import annotations

import gc


def keep_what_is_loaded() -> None:
    """Leave everything that is in memory now out of the collections to come.

    torch and transformers bring about a million objects; walking over them takes a fifth of a second, again and again while a
    shard is scored, and finds nothing. Not for a process that loads one model after the other: cycles among what is left out are
    never freed.
    """
    gc.collect()
    gc.freeze()
