"""The exit of a start is what the run folder and the ranks say, whatever torch's agent returned."""

from __future__ import annotations

import json
import signal

import pytest

from triagekit.errors import TriageError
from triagekit.launching.outcome import RanksFailed, settle_outcome
from triagekit.launching.reports import RankReport
from triagekit.launching.run_ranks import RanksEnd
from triagekit.training.run_folder import RunFolder
from triagekit.training.stopping import TrainingInterrupted

FINISHED = [RankReport(rank, "finished") for rank in range(2)]
STOPPED = [RankReport(rank, "stopped", "", signal.SIGUSR2, 5, 9) for rank in range(2)]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def stopped(folder, attempt, name="SIGTERM"):
    record = {"signal": name, "step": 5, "steps": 9, "time": "", "attempt": attempt}
    folder.stopped.write_text(json.dumps(record), encoding="utf-8")


def test_a_summary_means_finished_even_if_a_rank_fell_afterwards(folder):
    folder.summary.write_text("{}", encoding="utf-8")
    assert settle_outcome(folder, RanksEnd(1, FINISHED[:1], 2, [1]), "a") is folder


def test_ranks_that_finished_are_believed_before_the_file_system_shows_it(folder):
    assert settle_outcome(folder, RanksEnd(0, FINISHED, 2), "a") is folder


def test_a_stop_is_told_with_the_signal_of_the_run_folder(folder):
    stopped(folder, "a")
    with pytest.raises(TrainingInterrupted) as raised:
        settle_outcome(folder, RanksEnd(0, STOPPED, 2, [], signal.SIGUSR2), "a")
    assert raised.value.signal_number == signal.SIGTERM and raised.value.step == 5


def test_the_stop_of_an_earlier_attempt_is_not_this_ones(folder):
    stopped(folder, "before")
    with pytest.raises(RanksFailed):
        settle_outcome(folder, RanksEnd(1, [], 2, [], signal.SIGTERM), "now")


def test_ranks_told_to_stop_by_the_agent_because_one_died_have_failed(folder):
    stopped(folder, "a")
    with pytest.raises(RanksFailed, match="Rank 1 was killed"):
        settle_outcome(folder, RanksEnd(1, STOPPED[:1], 2, [1]), "a")


def test_a_checkpoint_counts_even_if_a_rank_fell_after_it(folder):
    stopped(folder, "a", "SIGUSR2")
    with pytest.raises(TrainingInterrupted):
        settle_outcome(folder, RanksEnd(1, STOPPED[:1], 2, [1], signal.SIGUSR2), "a")


def test_what_the_user_can_mend_is_told_once(folder):
    reports = [RankReport(rank, "refused", "No data at x.") for rank in range(2)]
    with pytest.raises(TriageError, match=r"^No data at x\.$"):
        settle_outcome(folder, RanksEnd(1, reports, 2), "a")


def test_a_second_ctrl_c_is_an_interruption(folder):
    with pytest.raises(KeyboardInterrupt):
        settle_outcome(folder, RanksEnd(-9, [], 2, [], signal.SIGINT, True), "a")


@pytest.mark.parametrize(
    ("reports", "killed", "words"),
    [
        ([RankReport(1, "failed", "ValueError: odd")], [], "Rank 1 failed (ValueError: odd)"),
        ([], [0, 1], "Rank 0, 1 was killed"),
        ([], [], "2 of the 2 ranks of this node did not say"),
    ],
)
def test_other_ends_say_which_rank(folder, reports, killed, words):
    with pytest.raises(RanksFailed) as raised:
        settle_outcome(folder, RanksEnd(1, reports, 2, killed), "a")
    assert words in str(raised.value)
