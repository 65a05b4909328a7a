"""What counts as a full memory, and what the end of a probe means."""

from __future__ import annotations

import errno
import signal

import pytest

from triagekit.errors import TriageError
from triagekit.hardware.ladder import Rung
from triagekit.launching.outcome import RanksFailed, StoppedBeforeTraining
from triagekit.launching.probe import ProbeResult, _judge
from triagekit.launching.probe_worker import out_of_memory
from triagekit.launching.reports import RankReport
from triagekit.launching.run_ranks import RanksEnd

CARD = Rung.model_validate({"name": "card", "memory_gb": 4})
CPU = Rung.model_validate({"name": "cpu", "count": 0, "memory_gb": 2})


class OutOfMemoryError(RuntimeError):
    """Stands for torch's."""


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_a_full_memory_is_known_in_every_librarys_words(error):
    assert out_of_memory(error) is error
    wrapped = ImportError("cannot import name x")
    wrapped.__context__ = error
    assert out_of_memory(wrapped) is error


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("size mismatch"), OSError(2, "no file")])
def test_other_errors_are_not_taken_for_it(error):
    assert out_of_memory(error) is None


def test_one_full_rank_is_enough():
    reports = [RankReport(1, "out_of_memory", "CUDA out of memory."), RankReport(0, "failed", "connection closed")]
    assert _judge(RanksEnd(1, reports, 2), CARD) == ProbeResult(False, None, "CUDA out of memory.")


def test_a_rank_killed_by_the_system_is_a_full_memory():
    assert not _judge(RanksEnd(1, [RankReport(0, "failed", "connection closed")], 2, [1]), CARD).fits


def test_an_abort_is_one_only_under_a_limit_of_ours():
    assert not _judge(RanksEnd(1, [], 2, aborted=[1]), CPU).fits
    with pytest.raises(RanksFailed):
        _judge(RanksEnd(1, [], 2, aborted=[1]), CARD)


def test_what_fits_tells_the_most_that_a_rank_held():
    reports = [RankReport(rank, "finished", peak_bytes=rank + 5) for rank in range(2)]
    assert _judge(RanksEnd(0, reports, 2), CARD) == ProbeResult(True, 6)


def test_other_failures_are_told_as_they_are():
    with pytest.raises(TriageError, match="No data"):
        _judge(RanksEnd(1, [RankReport(0, "refused", "No data.")], 1), CARD)
    with pytest.raises(RanksFailed, match=r"The probe of rung card failed\. Rank 0 failed \(ValueError: odd"):
        _judge(RanksEnd(1, [RankReport(0, "failed", "ValueError: odd")], 1), CARD)
    with pytest.raises(StoppedBeforeTraining):
        _judge(RanksEnd(-9, [], 1, [], signal.SIGTERM), CARD)
