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
from triagekit.scoring.care import Care
from triagekit.scoring.joint import JointShard, JointSummary
from triagekit.scoring.parts import PartSummary
from triagekit.scoring.pool import WorkerPool
from triagekit.scoring.stopping import ScoringInterrupted, StopRequest


class FakeRay:
    """Tasks are done one look after they were given, but for those in `never`."""

    def __init__(self, never=()):
        self.never = set(never)
        self.lost = set()
        self.given = []
        self.exceptions = types.SimpleNamespace(
            RayTaskError=ValueError, RayActorError=KeyError, OutOfMemoryError=MemoryError, RayError=LookupError
        )

    def submit(self, shard, care):
        self.given.append(shard.index)
        return shard.index

    def wait(self, tasks, num_returns, timeout):
        done = [task for task in tasks if task not in self.never][:num_returns]
        return done, [task for task in tasks if task not in done]

    def get(self, task, timeout=None):
        if task in self.lost:
            raise KeyError("the actor died")
        return JointSummary({0: PartSummary(task, "fingerprint", 1, {"auto": 1})})


@pytest.fixture
def fake(monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def shards(count):
    return [JointShard(number, "a to c", {}) for number in range(count)]


def make_pool(ray, workers):
    pool = WorkerPool([types.SimpleNamespace(batch_size=64, out="nowhere")], workers, 3, None, 0)
    pool._members = [new_member(ray) for _ in range(workers)]
    pool._new_member = lambda: new_member(ray)
    return pool


def new_member(ray):
    return pool_module._Member(types.SimpleNamespace(score_planned=types.SimpleNamespace(remote=ray.submit)))


def test_without_a_signal_every_shard_is_scored(fake):
    pool = make_pool(fake, 2)
    assert sorted(summary.of_run[0].shard for summary in pool.score(shards(20))) == list(range(20))
    assert sum(row["rows"] for row in pool.table()) == 20


@pytest.mark.parametrize(
    ("told", "expected"), [(["killed", "killed"], [None, 16]), (["the node ran low on memory", "killed"], [32, 16])]
)
def test_a_shard_that_memory_has_ended_is_given_again_in_smaller_batches(fake, told, expected):
    pool = make_pool(fake, 2)
    fake.lost = {"task", "next"}
    shard, behind = JointShard(4, "a to c", {}), JointShard(5, "d to f", {})
    given, again = [], deque()
    for reason in told:
        pool._members[0].tasks = deque([("task", shard), ("next", behind)])
        pool._replace(pool._members[0], again, KeyError(reason))
        given.append(pool._careful.care(shard).rows_at_once)
    # Both go to whoever lives, also the one that the worker was at: another worker may fare better with it.
    assert given == expected and list(again) == [shard, behind] * 2
    assert pool._careful.care(behind) == Care()
    assert (pool.lost_workers, pool.table()[0]["restarts"]) == (2, 2)
    pool._members[0].tasks = deque([("task", shard)])
    pool._replace(pool._members[0], again, KeyError("killed"))
    assert pool._careful.care(shard).watched


def test_a_worker_that_finds_no_room_holds_nothing_up(fake):
    pool = make_pool(fake, 2)
    fake.never = {"starting"}
    pool._members[0].starting = "starting"
    assert len(list(pool.score(shards(9)))) == 9
    assert [row["rows"] for row in pool.table()] == [0, 9]


def test_a_cluster_without_room_for_any_worker_is_given_up(fake, monkeypatch):
    pool = make_pool(fake, 2)
    fake.never = {"starting"}
    for member in pool._members:
        member.starting = "starting"
    monkeypatch.setattr(pool_module, "ROOM_SECONDS", 0.05)
    with pytest.raises(TriageError, match="no room for a worker"):
        list(pool.score(shards(2)))


def test_a_worker_takes_shards_once_it_lives(fake):
    pool = make_pool(fake, 1)
    pool._members[0].starting = "starting"
    assert len(list(pool.score(shards(3)))) == 3


def test_after_the_signal_no_shard_is_begun_and_those_at_work_are_finished(fake):
    pool, stop, scored = make_pool(fake, 2), StopRequest(), []
    with stop, pytest.raises(ScoringInterrupted) as told:
        for summary in pool.score(shards(100), stop):
            scored.append(summary)
            if len(scored) == 3:
                os.kill(os.getpid(), signal.SIGUSR2)
    assert told.value.signal_number == signal.SIGUSR2
    # Each of the two workers finishes the one it is at; what waited behind it is left.
    assert len(scored) == 5 and len({summary.of_run[0].shard for summary in scored}) == 5
    assert len(fake.given) <= 3 + 2 * pool_module.UNDER_WAY_PER_WORKER


def test_a_shard_that_takes_longer_than_there_is_time_is_left(fake, monkeypatch):
    fake.never = {0}
    monkeypatch.setattr("triagekit.scoring.stopping.PATIENCE", {signal.SIGTERM: 0.05, signal.SIGUSR2: 0.05})
    pool, stop = make_pool(fake, 1), StopRequest()
    monkeypatch.setattr(pool_module, "LOOK_SECONDS", 0.01)
    stop.signal_number = signal.SIGTERM
    with pytest.raises(ScoringInterrupted):
        list(pool.score(shards(5), stop))


def test_the_handlers_are_taken_back_and_a_repeated_signal_is_one_wish():
    before = signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop.signal_number == signal.SIGUSR2
    assert (signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_the_command_exits_with_128_and_the_signal(monkeypatch, capsys, number):
    def stopped(many, progress):
        raise ScoringInterrupted(number)

    monkeypatch.setattr("triagekit.scoring.job.score_archives", stopped)
    assert main(["score", "a.csv", "--run", "r", "--out", "o"]) == 128 + number
    assert "The same command goes on" in capsys.readouterr().err
