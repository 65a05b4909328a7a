"""A signal ends an archive job between two shards: no new one is begun, what is under way may still be finished."""

from __future__ import annotations

import os
import signal
import sys
import types
from collections import deque

import pytest

from triagekit.cli.main import main
from triagekit.errors import TriageError
from triagekit.scoring import pool as pool_module
from triagekit.scoring.parts import PartSummary
from triagekit.scoring.plan import PlannedShard
from triagekit.scoring.pool import WorkerPool
from triagekit.scoring.stopping import ScoringInterrupted, StopRequest


class FakeRay:
    """Tasks are done one look after they were given, but for those in `never`."""

    def __init__(self, never=()):
        self.never = set(never)
        self.given = []
        self.exceptions = types.SimpleNamespace(
            RayTaskError=ValueError, RayActorError=KeyError, OutOfMemoryError=MemoryError, RayError=LookupError
        )

    def submit(self, shard):
        self.given.append(shard)
        return shard

    def wait(self, tasks, num_returns, timeout):
        done = [task for task in tasks if task not in self.never][:num_returns]
        return done, [task for task in tasks if task not in done]

    def get(self, task):
        return PartSummary(task, "fingerprint", 1, {"auto": 1})


@pytest.fixture
def fake(monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def make_pool(ray, workers):
    pool = WorkerPool(None, workers, 3, None, 0)
    actor = types.SimpleNamespace(score_planned=types.SimpleNamespace(remote=ray.submit))
    pool._members = [pool_module._Member(actor) for _ in range(workers)]
    return pool


def test_without_a_signal_every_shard_is_scored(fake):
    pool = make_pool(fake, 2)
    assert sorted(summary.shard for summary in pool.score(range(20))) == list(range(20))
    assert sum(row["rows"] for row in pool.table()) == 20


@pytest.mark.parametrize(
    ("told", "expected"), [(["killed", "killed"], [None, 16]), (["the node ran low on memory", "killed"], [32, 16])]
)
def test_a_worker_that_memory_has_ended_is_replaced_by_a_leaner_one(fake, told, expected):
    pool, asked = make_pool(fake, 2), []
    pool._order = types.SimpleNamespace(batch_size=64)
    actor = pool._members[0].actor

    def new_member(rows_at_once=None):
        asked.append(rows_at_once)
        return pool_module._Member(actor)

    pool._new_member = new_member
    shard, behind, again = PlannedShard(4, span="a to c"), PlannedShard(5, span="d to f"), deque()
    for reason in told:
        pool._members[0].tasks = deque([("task", shard), ("next", behind)])
        pool._replace(pool._members[0], again, KeyError(reason))
        # The shard goes to the lean worker itself, what waited behind it to whoever is free.
        assert [item[1] for item in pool._members[0].tasks] == [shard]
    assert asked == expected and list(again) == [behind, behind]
    assert (pool.lost_workers, pool.table()[0]["restarts"]) == (2, 2)
    with pytest.raises(TriageError, match=r"Shard 4 \(tickets a to c\) ended 3 workers"):
        pool._replace(pool._members[0], again, KeyError("killed"))


def test_after_the_signal_no_shard_is_begun_and_those_at_work_are_finished(fake):
    pool, stop, scored = make_pool(fake, 2), StopRequest(), []
    with stop, pytest.raises(ScoringInterrupted) as told:
        for summary in pool.score(range(100), stop):
            scored.append(summary)
            if len(scored) == 3:
                os.kill(os.getpid(), signal.SIGUSR2)
    assert told.value.signal_number == signal.SIGUSR2
    # Each of the two workers finishes the one it is at; what waited behind it is left.
    assert len(scored) == 5 and len({summary.shard for summary in scored}) == 5
    assert len(fake.given) <= 3 + 2 * pool_module.UNDER_WAY_PER_WORKER


def test_a_shard_that_takes_longer_than_there_is_time_is_left(fake, monkeypatch):
    fake.never = {0}
    monkeypatch.setattr("triagekit.scoring.stopping.PATIENCE", {signal.SIGTERM: 0.05, signal.SIGUSR2: 0.05})
    pool, stop = make_pool(fake, 1), StopRequest()
    monkeypatch.setattr(pool_module, "LOOK_SECONDS", 0.01)
    stop.signal_number = signal.SIGTERM
    with pytest.raises(ScoringInterrupted):
        list(pool.score(range(5), stop))


def test_the_handlers_are_taken_back_and_a_repeated_signal_is_one_wish():
    before = signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop.signal_number == signal.SIGUSR2
    assert (signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_the_command_exits_with_128_and_the_signal(monkeypatch, capsys, number):
    def stopped(settings, progress):
        raise ScoringInterrupted(number)

    monkeypatch.setattr("triagekit.scoring.job.score_archive", stopped)
    assert main(["score", "a.csv", "--run", "r", "--out", "o"]) == 128 + number
    assert "The same command goes on" in capsys.readouterr().err
