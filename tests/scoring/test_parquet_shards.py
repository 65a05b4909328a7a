"""Parquet archives: a worker decodes the columns that it needs, and each row group once, however many shards lie in it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from triagekit.data import parquet_reader
from triagekit.data.archive import TicketColumns, archive_mapper
from triagekit.data.mapping import DataMapping
from triagekit.data.parquet_reader import KeptParquet, read_parquet
from triagekit.data.pieces import RawRow
from triagekit.data.sources import read_source
from triagekit.scoring.job_card import Reading
from triagekit.scoring.plan import PlannedShard, as_planned, make_plans, read_rows

READING = Reading(None, None, ("product",))
GROUP_ROWS = 1500
"""More than a batch of the reader."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three row groups and six columns, of which three are needed."""
    path = tmp_path_factory.mktemp("parquet") / "tickets.parquet"
    numbers = range(2 * GROUP_ROWS + 400)
    table = pyarrow.table(
        {
            "wide": [f"attachment {number}" * 5 for number in numbers],
            "id": [f"T{number}" for number in numbers],
            "dotted.name": list(numbers),
            "text": [f"printer {number} is dead" if number % 50 else "" for number in numbers],
            "dotted": pyarrow.array([{"name": number} for number in numbers]),
            "product": [("Mail", "ERP", None)[number % 3] for number in numbers],
        }
    )
    pyarrow.parquet.write_table(table, path, row_group_size=GROUP_ROWS)
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[str] | None]]:
    """Each decoding that was begun: the row group and the columns."""
    begun: list[tuple[int, list[str] | None]] = []
    real: Callable[..., Any] = pyarrow.parquet.ParquetFile.iter_batches

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        begun.extend((group, named["columns"]) for group in named["row_groups"])
        return real(self, *arguments, **named)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", counted)
    return begun


def shards_of(path: Path, shard_rows: int = 100, reading: Reading = READING) -> list[PlannedShard]:
    return make_plans(path, reading, shard_rows, ["job"], lambda row: None)[0].shards


def test_each_worker_decodes_a_row_group_once_and_needed_columns_alone(
    archive: Path, decoded: list[tuple[int, list[str] | None]]
) -> None:
    shards = shards_of(archive)
    needed = ["id", "text", "product"]
    # The first rows of the first group are looked at before: there nothing is known of what will be carried.
    assert decoded == [(0, ["id", "text"]), (0, needed), (1, needed), (2, needed)]
    alone = []
    for number, shard in enumerate(shards):
        decoded.clear()
        alone.append(as_planned(archive, read_rows(archive, READING, shard), shard, "job"))
        assert 1 <= len(decoded) <= 2, number
    assert alone[0].carried["product"][:3] == ("ERP", None, "Mail")
    for first in range(2):
        own, kept = range(first, len(shards), 2), KeptParquet()
        decoded.clear()
        found = [as_planned(archive, read_rows(archive, READING, shards[n], kept), shards[n], "job") for n in own]
        assert found == [alone[number] for number in own]
        assert decoded == [(0, needed), (1, needed), (2, needed)]


def test_other_orders_give_the_same_rows(archive: Path, decoded: list[tuple[int, list[str] | None]]) -> None:
    shards, kept = shards_of(archive), KeptParquet()
    order = [20, 3, 3, 4, 30, 31, 15, 14, 0]
    for number in order:
        assert read_rows(archive, READING, shards[number], kept) == read_rows(archive, READING, shards[number])
    decoded.clear()
    # The group of the last shard is gone on with, and one that lies between two is passed over.
    for number in (2, 31):
        read_rows(archive, READING, shards[number], kept)
    assert [group for group, _ in decoded] == [2]


def test_a_packed_file_is_unpacked_once(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "tickets.parquet.gz"
    packed.write_bytes(gzip.compress(archive.read_bytes()))
    shards, kept = shards_of(packed), KeptParquet()
    unpacked: list[Path] = []
    real = parquet_reader.byte_chunks

    def counted(path: Path) -> Any:
        unpacked.append(path)
        return real(path)

    monkeypatch.setattr(parquet_reader, "byte_chunks", counted)
    for shard in shards[:8]:
        as_planned(packed, read_rows(packed, READING, shard, kept), shard, "job")
    assert len(unpacked) == 1


def test_a_broken_row_group_is_broken_for_who_goes_on_too(archive: Path, tmp_path: Path) -> None:
    broken = tmp_path / "tickets.parquet"
    content = bytearray(archive.read_bytes())
    chunk = pyarrow.parquet.ParquetFile(archive).metadata.row_group(1).column(3)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + 12] = b"\xff" * 12
    broken.write_bytes(content)
    rejects: list[dict[str, Any]] = []
    shards = make_plans(broken, READING, 100, ["job"], rejects.append)[0].shards
    lost = [row["line"] for row in rejects if row["reason"] == "broken Parquet row group"]
    assert lost == list(range(GROUP_ROWS + 1, 2 * GROUP_ROWS + 1))
    kept = KeptParquet()
    for shard in shards:
        as_planned(broken, read_rows(broken, READING, shard, kept), shard, "job")
    # Left among the rows that are lost, and in the group behind them.
    pieces = list(read_parquet(broken, "f"))
    for left_at in (GROUP_ROWS + 10, 2 * GROUP_ROWS + 10):
        assert list(islice(read_parquet(broken, "f", kept=kept), left_at)) == pieces[:left_at]
        assert list(read_parquet(broken, "f", left_at + 1, kept=kept)) == pieces[left_at:]


def columns_read(path: Path, mapping: DataMapping | None, carried: tuple[str, ...] = ()) -> list[str]:
    rows = list(read_source(path, None, TicketColumns(archive_mapper(mapping), carried)))
    assert all(isinstance(row, RawRow) for row in rows)
    return list(rows[0].values)  # type: ignore[union-attr]


def test_which_columns_are_needed(archive: Path, tmp_path: Path) -> None:
    renamed = DataMapping(rename={"wide": "body", "product": "line"}, text="{body}\n{line}", id="dotted.name")
    assert columns_read(archive, renamed) == ["wide", "dotted.name", "product"]
    assert columns_read(archive, None, ("dotted",)) == ["id", "text", "dotted"]
    assert len(columns_read(archive, DataMapping(text="body", id="nr"))) == 6, "nothing is there: all, to say so"
    # Rows that are recognised by what they have keep all of it.
    for columns in (["messages", "ticket", "id"], ["instruction", "input"], ["label", "text"]):
        path = tmp_path / "known.parquet"
        pyarrow.parquet.write_table(pyarrow.table({name: ["x"] for name in columns}), path)
        assert columns_read(path, None) == columns
        assert columns_read(path, DataMapping(text="x", id=columns[0])) == columns[:1]
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["id", "text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "twice.parquet")
    assert columns_read(tmp_path / "twice.parquet", None) == ["id", "text"]
