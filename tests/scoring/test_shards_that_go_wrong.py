"""Shards that fail or end their workers: given again, elsewhere and with more care; one ticket never costs the others."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scoring_helpers import settings_for, table_of, write_archive
from test_score_stopping import FakeRay, make_pool, shards

from triagekit.errors import TriageError
from triagekit.scoring import care as care_module
from triagekit.scoring import pool as pool_module
from triagekit.scoring.care import MOST_LEFT_OUT, CarefulShards, Watch
from triagekit.scoring.job import score_archive
from triagekit.scoring.joint import JointScoreWorker, JointShard
from triagekit.scoring.worker import NothingScored

SHARD = JointShard(4, "a to c", {0: None})


class TaskFailed(Exception):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class FailingRay(FakeRay):
    """Shard 3 fails with the given errors, one try after the other."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.exceptions.RayTaskError = TaskFailed
        self.errors = list(errors)
        self.killed: list[Any] = []
        self.kill = self.killed.append

    def get(self, task: int, timeout: float | None = None) -> Any:
        if task == 3 and self.errors:
            raise TaskFailed(self.errors.pop(0))
        return super().get(task)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(care_module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(pool_module, "LOOK_SECONDS", 0.01)

    def make(*errors: Exception) -> FailingRay:
        ray = FailingRay(*errors)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    return make


def scored(pool: Any, count: int = 6) -> list[int]:
    return sorted(summary.of_run[0].shard for summary in pool.score(shards(count)))


def test_a_shard_that_fails_is_given_to_another_worker(failing: Any) -> None:
    ray = failing(ConnectionResetError("reset by peer"), TimeoutError("slow"))
    pool = make_pool(ray, 2)
    tried: list[Any] = []
    for member in pool._members:
        member.actor.score_planned.remote = lambda shard, care, actor=member.actor: (
            tried.append(actor) if shard.index == 3 else None,
            ray.submit(shard, care),
        )[1]
    assert scored(pool) == list(range(6))
    assert len(tried) == 3 and tried[0] is not tried[1]
    assert pool.lost_workers == 0 and not ray.killed


def test_a_shard_that_always_fails_ends_the_job_when_the_others_are_done(failing: Any) -> None:
    ray = failing(*(ConnectionResetError(f"try {number}") for number in range(4)))
    pool = make_pool(ray, 2)
    done = []
    with pytest.raises(TriageError, match=r"Shard 3 could not be scored, 4 times: try 3"):
        for summary in pool.score(shards(6)):
            done.append(summary.of_run[0].shard)
    assert sorted(done) == [0, 1, 2, 4, 5]


def test_what_no_other_worker_would_do_better_is_told_at_once(failing: Any) -> None:
    ray = failing(TriageError("the content of a.csv is not what it was"))
    with pytest.raises(TriageError, match=r"Shard 3 could not be scored: the content of a.csv"):
        scored(make_pool(ray, 2))
    assert ray.given.count(3) == 1


def test_a_worker_that_answers_nobody_is_replaced(failing: Any) -> None:
    ray = failing(NothingScored("None of 16 tickets could be scored"))
    pool = make_pool(ray, 2)
    assert scored(pool) == list(range(6))
    assert len(ray.killed) == 1 and pool.lost_workers == 1
    with pytest.raises(TriageError, match=r"2 times: None of 16"):
        scored(make_pool(failing(*[NothingScored("None of 16")] * 2), 2))


def test_deaths_are_counted_since_a_shard_was_last_finished(failing: Any) -> None:
    pool = make_pool(failing(), 1)
    for _ in range(3):
        pool._lose(pool._members[0])
    assert scored(pool, 2) == [0, 1]
    for _ in range(3):
        pool._lose(pool._members[0])
    with pytest.raises(TriageError, match=r"4 workers died, and no shard was finished in between"):
        pool._lose(pool._members[0])
    assert pool.lost_workers == 7


def test_what_a_worker_had_finished_is_kept_and_its_death_is_the_next_ones(failing: Any) -> None:
    ray = failing()
    pool = make_pool(ray, 1)
    ray.lost = {4}
    pool._members[0].tasks = deque([(3, JointShard(3, "a", {})), (4, SHARD)])
    again: deque[JointShard] = deque()
    for _ in range(2):
        pool._replace(pool._members[0], again, KeyError("killed"))
        pool._members[0].tasks = deque([(4, SHARD)])
    assert list(again) == [SHARD, SHARD] and pool._careful.care(SHARD).rows_at_once == 16
    assert pool._next_result(again).of_run[0].shard == 3
    assert pool.table()[0]["rows"] == 1


def watched(tmp_path: Path) -> CarefulShards:
    careful = CarefulShards(64, [str(tmp_path)])
    assert [careful.died(SHARD, "killed") for _ in range(3)] == [False] * 3
    assert careful.care(SHARD).watched and not careful.care(JointShard(5, "d", {})).watched
    return careful


def test_a_ticket_is_left_out_when_the_worker_died_at_it_twice(tmp_path: Path) -> None:
    careful, watch = watched(tmp_path), Watch.of(str(tmp_path), 4)
    for place, left_out in ((7, {}), (2, {}), (7, {}), (7, {0: frozenset({7})})):
        watch.begin(place)
        assert careful.died(SHARD, "killed")
        assert careful.care(SHARD).left_out == left_out
        assert watch.read() is None


def test_a_shard_that_ends_workers_at_no_ticket_or_at_too_many_is_given_up(tmp_path: Path) -> None:
    careful = watched(tmp_path)
    assert [careful.died(SHARD, "killed") for _ in range(2)] == [False] * 2
    with pytest.raises(
        TriageError, match=r"Shard 4 \(tickets a to c\) ended 6 workers, also one ticket after the other"
    ):
        careful.died(SHARD, "killed")
    careful, watch = watched(tmp_path), Watch.of(str(tmp_path), 4)
    with pytest.raises(TriageError, match="one ticket after the other"):
        for death in range(2 * MOST_LEFT_OUT + 2):
            watch.begin(death // 2)
            careful.died(SHARD, "killed")
    assert death == 2 * MOST_LEFT_OUT + 1


@pytest.fixture
def ray_here() -> Iterator[None]:
    import ray

    from triagekit.scoring.layout import start_ray

    assert start_ray(None, workers=2, gpus=0)
    yield
    ray.shutdown()


@pytest.mark.long
@pytest.mark.usefixtures("ray_here")
def test_a_ticket_that_ends_its_process_costs_its_own_row(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = write_archive(tmp_path / "tickets.csv", 40)
    with (tmp_path / "tickets.csv").open("a", encoding="utf-8") as handle:
        handle.write("D-1,a deadly ticket\nD-2,one behind it\n")

    class Deadly(JointScoreWorker):
        def open(self) -> str | None:
            refusal = super().open()
            predictor: Any = self._workers[0]._predictor
            predict = predictor.predict

            def guarded(texts: list[str]) -> Any:
                if any("deadly" in text for text in texts):
                    os._exit(139)
                return predict(texts)

            predictor.predict = guarded
            return refusal

    monkeypatch.setattr(pool_module, "JointScoreWorker", Deadly)
    manifest = score_archive(settings_for(adapter, tmp_path / "tickets.csv", tmp_path / "out"))
    rows = {row["id"]: row for row in table_of(tmp_path / "out")}
    assert list(rows) == [*ids, "D-1", "D-2"]
    assert rows["D-1"]["verdict"] == "error" and "ended at this ticket, twice" in rows["D-1"]["error"]
    assert all(row["verdict"] != "error" for identity, row in rows.items() if identity != "D-1")
    assert manifest.lost_workers == 5
    assert not list((tmp_path / "out").rglob("*.at.tmp"))


@pytest.mark.long
@pytest.mark.usefixtures("ray_here")
def test_a_read_that_breaks_off_costs_nothing(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = write_archive(tmp_path / "tickets.csv", 60)
    broken = tmp_path / "broken"
    monkeypatch.setattr(care_module, "RETRY_SECONDS", 0.1)

    class Flaky(JointScoreWorker):
        def score_planned(self, joint: JointShard, care: Any = care_module.Care()) -> Any:  # noqa: B008
            if joint.index == 1 and not broken.exists():
                broken.write_text("")
                raise ConnectionResetError("the store hung up")
            return super().score_planned(joint, care)

    monkeypatch.setattr(pool_module, "JointScoreWorker", Flaky)
    manifest = score_archive(settings_for(adapter, tmp_path / "tickets.csv", tmp_path / "out"))
    assert broken.exists() and manifest.lost_workers == 0
    assert [row["id"] for row in table_of(tmp_path / "out")] == ids
