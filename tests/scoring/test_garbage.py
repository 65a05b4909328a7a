"""What is loaded is left out of Python's garbage collections, and what comes later is not."""

from __future__ import annotations

import gc
import weakref

from triagekit.scoring.garbage import keep_what_is_loaded


class Knot:
    """Refers to itself, so that only a collection can free it."""

    def __init__(self) -> None:
        self.itself = self


def test_only_what_comes_later_is_collected() -> None:
    try:
        loaded = Knot()
        keep_what_is_loaded()
        later = Knot()
        of_loaded, of_later = weakref.ref(loaded), weakref.ref(later)
        del loaded, later
        gc.collect()
        assert of_loaded() is not None
        assert of_later() is None
    finally:
        gc.unfreeze()
    gc.collect()
    assert of_loaded() is None
