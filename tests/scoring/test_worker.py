"""What a worker does with tickets that the model fails on."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from triagekit.errors import TriageError
from triagekit.scoring.intake import SeenIds, Shard
from triagekit.scoring.part_formats import OutputFormat
from triagekit.scoring.parts import part_files, read_part
from triagekit.scoring.predictor import Predictor
from triagekit.scoring.worker import ScoreWorker, WorkerOrder, predict_each


def order_for(adapter: Path, out: Path) -> WorkerOrder:
    return WorkerOrder(str(adapter), str(out), None, "auto", "cpu", 8, True, None, 1)


class Choking:
    """A predictor that fails as a model does on some ticket of a batch."""

    def __init__(self, predictor: Predictor, poison: str) -> None:
        self.schema, self.adapter = predictor.schema, predictor.adapter
        self._predictor, self._poison = predictor, poison

    def predict(self, texts: list[str]) -> Any:
        if any(self._poison in text for text in texts):
            raise RuntimeError("index out of range in self")
        return self._predictor.predict(texts)

    def counts(self) -> dict[str, int]:
        return self._predictor.counts()


@pytest.fixture(scope="module")
def predictor(adapter: Path) -> Predictor:
    return Predictor.from_run(adapter, device="cpu", batch_size=8)


def test_one_poison_ticket_costs_one_row(predictor: Predictor) -> None:
    texts = [f"ticket {number}" for number in range(20)]
    texts[13] = "poison"
    found = predict_each(Choking(predictor, "poison"), texts)
    assert [item.verdict for item in found] == ["error" if n == 13 else "auto" for n in range(20)]
    assert found[13].record is None and "RuntimeError: index out of range" in str(found[13].error)


def test_a_shard_without_any_success_stops_the_job(predictor: Predictor, adapter: Path, tmp_path: Path) -> None:
    worker = ScoreWorker(order_for(adapter, tmp_path))
    worker._predictor = Choking(predictor, "ticket")
    shard = Shard(0, tuple((str(n), f"ticket {n}") for n in range(16)), "f")
    with pytest.raises(TriageError, match="None of 16 tickets"):
        worker.score(shard)
    assert not list(tmp_path.iterdir())


class Hungry(Choking):
    """A predictor whose memory holds `room` tickets together."""

    def __init__(self, predictor: Predictor, room: int) -> None:
        super().__init__(predictor, "never")
        self.room, self.asked = room, []

    def predict(self, texts: list[str]) -> Any:
        self.asked.append(len(texts))
        if len(texts) > self.room:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 8 GB")
        return super().predict(texts)


def test_where_memory_runs_out_fewer_tickets_go_together(predictor: Predictor, adapter: Path, tmp_path: Path) -> None:
    worker = ScoreWorker(order_for(adapter, tmp_path))
    worker._predictor = hungry = Hungry(predictor, room=3)
    rows = tuple((str(number), f"ticket {number}") for number in range(10))
    assert worker.score(Shard(0, rows, "f")).verdicts == {"auto": 10}
    # 8 is the batch size: 4 are still too many; from then on 2, in the next shard too.
    assert hungry.asked == [10, 4, 2, 2, 2, 2, 2]
    worker.score(Shard(1, rows[:3], "f"))
    assert hungry.asked[7:] == [2, 1]
    # A ticket that has no room even alone costs its own row.
    worker._predictor = Hungry(predictor, room=0)
    worker._rows_at_once = None
    worker.score(Shard(2, rows[:2], "f"))
    table = parquet.read_table(tmp_path / "part-00002.parquet").to_pylist()
    assert [row["verdict"] for row in table] == ["error", "error"] and "can't allocate" in table[0]["error"]


@pytest.mark.parametrize("output_format", ["parquet", "csv"])
def test_a_full_disk_is_told_and_parts_already_written_stay(
    predictor: Predictor, adapter: Path, tmp_path: Path, output_format: OutputFormat
) -> None:
    worker = ScoreWorker(replace(order_for(adapter, tmp_path), output_format=output_format))
    worker._predictor = predictor
    shards = [Shard(number, tuple((f"{number}-{n}", f"ticket {n}") for n in range(8)), "f") for number in range(2)]
    summary = worker.score(shards[0])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(TriageError, match=r"no room left.*stay good.*same command"):
            worker.score(shards[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert part_files(tmp_path, output_format).keys() == {0}
    assert not list(tmp_path.glob(".*.tmp"))
    assert read_part(part_files(tmp_path, output_format)[0], 0, "f", 8) == summary
    assert worker.score(shards[1]).rows == 8


def test_error_rows_stand_in_the_part(predictor: Predictor, adapter: Path, tmp_path: Path) -> None:
    worker = ScoreWorker(order_for(adapter, tmp_path))
    worker._predictor = Choking(predictor, "poison")
    summary = worker.score(Shard(7, (("a", "fine"), ("b", "poison")), "f"))
    rows = parquet.read_table(tmp_path / "part-00007.parquet").to_pylist()
    assert [row["verdict"] for row in rows] == ["auto", "error"]
    assert rows[1]["summary"] is None and rows[1]["confidence_summary"] is None and "RuntimeError" in rows[1]["error"]
    assert summary.verdicts == {"auto": 1, "error": 1}


def test_an_unconstrained_worker_keeps_the_text_that_could_not_be_read(adapter: Path, tmp_path: Path) -> None:
    predictor = Predictor.from_run(adapter, device="cpu", constrained=False)
    worker = ScoreWorker(order_for(adapter, tmp_path))
    worker._predictor = predictor
    worker.score(Shard(0, (("a", "printer"),), "f"))
    row = parquet.read_table(tmp_path / "part-00000.parquet").to_pylist()[0]
    assert row["verdict"] in ("error", "review") and row["raw"] and row["error"]


def test_a_refused_adapter_is_told_as_text(adapter: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in adapter.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "schema.yaml").write_text(
        (copy / "schema.yaml").read_text(encoding="utf-8").replace("Printer", "Printers"), encoding="utf-8"
    )
    assert "schema" in str(ScoreWorker(order_for(copy, tmp_path)).open())


def test_seen_ids_are_exact() -> None:
    seen = SeenIds()
    assert seen.add("a", "x:1") is None
    assert seen.add("A", "x:2") is None
    assert seen.add("a ", "x:3") is None
    assert seen.add("a", "x:4") == "x:1"
    seen.close()
