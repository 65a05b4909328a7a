"""What is loaded is left out of Python's garbage collections, what comes later is not; freed memory is used again."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import weakref

import pytest

from triagekit.scoring.process_memory import keep_what_is_loaded

FAULTS = """
import resource
import torch
from triagekit.scoring.process_memory import keep_what_is_freed

def fewest_faults_of_a_tensor():
    faults = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(25_000_000)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(faults)

given_back = fewest_faults_of_a_tensor()
assert keep_what_is_freed()
print(given_back, fewest_faults_of_a_tensor())
"""


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_the_memory_of_a_freed_tensor_goes_to_the_next_one() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    # Pages of 100 MB that the system had to clear, huge ones perhaps: all of them, every time, where memory is given back. Kept
    # memory is found again once a piece of it is large enough for a tensor and its alignment.
    assert given_back > 40 and kept < given_back / 10
