"""An archive cut once: every shard read where it lies is what a reading from the beginning gives, or is refused."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from triagekit.data import byte_streams
from triagekit.data.archive import Ticket, archive_mapper, as_ticket
from triagekit.data.mapping import DataMapping
from triagekit.data.pieces import UNREADABLE
from triagekit.data.sources import read_source
from triagekit.errors import TriageError
from triagekit.scoring.intake import Shard, text_hash
from triagekit.scoring.job_card import Reading
from triagekit.scoring.plan import Plan, PlannedShard, as_planned, make_plans, read_plan, read_rows

READING = Reading(None, None)


def rows_of(start: int, count: int) -> list[dict[str, Any]]:
    source = random.Random(start)
    words = ["printer", "größer", "日本", 'say "hi"', "a,b", "two\nlines"]
    return [
        {"id": f"T{number}", "text": "" if number % 13 == 5 else " ".join(source.choices(words, k=5)) + f" {number}"}
        for number in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of four kinds, with broken rows, empty texts, and ids that came before in another file."""
    folder = tmp_path_factory.mktemp("plan")
    lines = ["id,text"]
    for row in rows_of(0, 60):
        quoted = row["text"].replace('"', '""')
        lines.append(f'{row["id"]},"{quoted}"')
        if row["id"] in ("T20", "T41"):
            lines.append('X1,"never closed')
    (folder / "a.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (folder / "b.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in [*rows_of(55, 40), *rows_of(0, 3)]) + "\n{broken\n"
    )
    (folder / "c.json").write_text(json.dumps(rows_of(95, 30), indent=1))
    table = pyarrow.Table.from_pylist(rows_of(125, 50))
    pyarrow.parquet.write_table(table, folder / "d.parquet", row_group_size=20)
    return folder


def planned(archive: Path, shard_rows: int = 7, job: str = "job", is_known: Any = None) -> tuple[Plan, list[Any]]:
    rejects: list[Any] = []
    return make_plans(archive, READING, shard_rows, [job], rejects.append, is_known)[0], rejects


def read_shard(archive: Path, shard: PlannedShard, job: str = "job") -> Shard:
    return as_planned(archive, read_rows(archive, READING, shard), shard, job)


def expected(archive: Path) -> tuple[list[tuple[str, str]], int]:
    """What a reading without shards gives: first tickets of each id, and how many pieces are none."""
    mapper = archive_mapper(None)
    tickets, pieces = {}, 0
    for piece in read_source(archive):
        pieces += 1
        ticket = as_ticket(mapper, piece)
        if isinstance(ticket, Ticket):
            tickets.setdefault(ticket.id, ticket.text)
    return list(tickets.items()), pieces - len(tickets)


@pytest.mark.parametrize("shard_rows", [1, 7, 64, 1000])
def test_shards_read_alone_are_the_archive(archive: Path, tmp_path: Path, shard_rows: int) -> None:
    plan, rejects = planned(archive, shard_rows)
    tickets, bad = expected(archive)
    assert bad > 15 and len(rejects) == plan.intake.rejects == bad
    assert plan.intake.tickets == len(tickets) == sum(shard.rows for shard in plan.shards)
    assert plan.intake.reasons["repeated id"] == 8 - 1  # one of the eight has no text
    shards = [read_shard(archive, shard) for shard in reversed(plan.shards)][::-1]
    assert [row for shard in shards for row in shard.rows] == tickets
    assert all(len(shard.rows) == shard_rows for shard in shards[:-1])
    assert plan.shards[0].span == f"{shards[0].rows[0][0]!r} to {shards[0].rows[-1][0]!r}"
    plan.write(tmp_path)
    assert read_plan(tmp_path, "job") == plan
    if shard_rows == 7:
        # Texts stay where they are, and no file is read from its beginning for a shard in its middle.
        assert "printer" not in (tmp_path / "plan.json").read_text(encoding="utf-8")
        starts = [segment for shard in plan.shards for segment in shard.segments if segment.mark is None]
        assert len(starts) <= 5 and max(segment.skip for shard in plan.shards for segment in shard.segments) < 10


def test_plans_are_the_same_in_every_reading_and_differ_between_jobs(archive: Path) -> None:
    one, two, other = planned(archive)[0], planned(archive)[0], planned(archive, job="other")[0]
    assert one == two
    prints = {shard.fingerprint for shard in one.shards}
    assert len(prints) == len(one.shards) and prints.isdisjoint(shard.fingerprint for shard in other.shards)


def test_what_is_known_is_left_out(archive: Path) -> None:
    tickets, _ = expected(archive)
    known = {(identity, text_hash(text)) for identity, text in tickets if int(identity[1:]) % 3}
    plan, _ = planned(archive, is_known=lambda *pair: pair in known)
    rows = [row for shard in plan.shards for row in read_shard(archive, shard).rows]
    assert rows == [row for row in tickets if int(row[0][1:]) % 3 == 0]
    assert plan.intake.unchanged == len(known)


def test_an_archive_that_changed_is_refused_by_name(archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in archive.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    plan, _ = planned(copy, shard_rows=30)
    content = (copy / "b.jsonl").read_text(encoding="utf-8")
    for changed in (content.replace("T71", "T7l"), content[100:], ""):
        (copy / "b.jsonl").write_text(changed, encoding="utf-8")
        with pytest.raises(TriageError, match=r"content of .*b\.jsonl.* is not what it was"):
            for shard in plan.shards:
                read_shard(copy, shard)


def test_plans_that_cannot_be_used(archive: Path, tmp_path: Path) -> None:
    assert read_plan(tmp_path, "job") is None
    plan, _ = planned(archive)
    plan.write(tmp_path)
    assert read_plan(tmp_path, "another") is None
    text = (tmp_path / "plan.json").read_text(encoding="utf-8")
    for damaged in (text[:-5], "[]", "{}", text.replace('"rows": 7', '"rows": 6', 1)):
        (tmp_path / "plan.json").write_text(damaged, encoding="utf-8")
        assert read_plan(tmp_path, "job") is None
    with pytest.raises(TriageError, match="body"):
        make_plans(archive / "d.parquet", Reading(DataMapping(text="body"), None), 7, ["job"], print)


def test_jobs_that_are_planned_together_have_the_plans_of_each_alone(archive: Path) -> None:
    together = make_plans(archive, READING, 7, ["one", "other"], lambda row: None)
    assert together == [planned(archive, job="one")[0], planned(archive, job="other")[0]]
    mine, theirs = together[0].shards[0], together[1].shards[0]
    assert read_shard(archive, mine, "one").rows == read_shard(archive, theirs, "other").rows
    with pytest.raises(TriageError, match="not what it was"):
        read_shard(archive, mine, "other")


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_compressed_file_is_unpacked_once_by_who_reads_its_shards_in_order(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(0, 4000)
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    packed = gzip.compress(content) if ending == "gz" else zstandard.ZstdCompressor().compress(content)
    path = tmp_path / f"tickets.jsonl.{ending}"
    path.write_bytes(packed)
    plan, _ = planned(path, shard_rows=100)
    begun: list[Path] = []
    unpacked = byte_streams._decompressed

    def counted(path: Path, *arguments: Any) -> Any:
        begun.append(path)
        return unpacked(path, *arguments)

    monkeypatch.setattr(byte_streams, "_decompressed", counted)
    own = plan.shards[1::2]
    found = [row for shard in own for row in read_rows(path, READING, shard).rows]
    assert len(plan.shards) > 30 and len(begun) == 1
    # Backwards it has to begin anew each time, and gives the same.
    again = [read_rows(path, READING, shard).rows for shard in reversed(own)]
    assert [row for rows in reversed(again) for row in rows] == found
    good = {row["id"]: row["text"] for row in rows if row["text"]}
    assert len(found) == 100 * (len(own) - 1) + len(again[0])
    assert dict(found) == {identity: good[identity] for identity, _ in found}


@pytest.mark.parametrize(
    "error", [byte_streams.BrokenSource(UNREADABLE, "the server hung up"), OSError("the server hung up")]
)
@pytest.mark.parametrize("name", ["a.csv.gz", "b.jsonl"])
def test_reading_that_breaks_off_is_no_other_content(
    archive: Path, name: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the shard is tried again, and nobody is told that the archive has changed."""
    plan, _ = planned(archive)
    shard = next(shard for shard in plan.shards if shard.segments[0].file == name)

    def broken(path: Path, start: int = 0) -> Any:
        raise error
        yield b""

    monkeypatch.setattr(byte_streams, "_plain", broken)
    with pytest.raises(OSError, match=rf"{name} cannot be read: the server hung up"):
        read_rows(archive, READING, shard)
