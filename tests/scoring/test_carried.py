"""Columns of the archive in the output: text as it was read, part of what a job is, and a way to split its rows."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet
import pytest
import zstandard
from scoring_helpers import LABELS_SCHEMA, TICKETS_SCHEMA, make_adapter, settings_for

from triagekit.cli.main import main
from triagekit.errors import ProblemsError, TriageError
from triagekit.scoring.carried import check_carried
from triagekit.scoring.intake import Shard, ShardDigest
from triagekit.scoring.job import score_archive, score_archives
from triagekit.scoring.job_card import Reading
from triagekit.scoring.part_columns import column_kinds
from triagekit.scoring.part_formats import OutputFormat, read_columns
from triagekit.scoring.partition import LONGEST_NAME, NULL, ValueFolders, check_partition_column, write_partitions
from triagekit.scoring.parts import write_part
from triagekit.scoring.plan import as_planned, make_plans, read_rows
from triagekit.scoring.predictor import failed_prediction
from triagekit.scoring.settings import ScoreSettings, for_runs

CARRY = ("product", "opened at")
PRODUCTS = ["Mail", "mail", None, "=1+1", "'quoted", "a/b", "..", " both ", "50%", "k=v", "日本" * 90, "x" * 300]
PRODUCTS += ["__HIVE_DEFAULT_PARTITION__", "two\nlines", "-", "?#&", "long " + "y" * 200_000, "~", "Mail"]


def rows() -> list[dict[str, Any]]:
    return [
        {"id": f"T{number}", "text": f"printer {number}", "product": product, "opened at": f"2024-01-{number + 1:02d}"}
        for number, product in enumerate(PRODUCTS)
    ]


def write(folder: Path, kind: str, content: list[dict[str, Any]]) -> Path:
    path = folder / f"tickets.{kind}"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content).encode()
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path, row_group_size=7)
    else:
        path.write_bytes(gzip.compress(lines) if kind.endswith("gz") else zstandard.compress(lines))
    return path


def read_all(archive: Path, reading: Reading, job: str = "job") -> dict[str, list[str | None]]:
    shards = make_plans(archive, reading, 5, [job], lambda row: None)[0].shards
    found = [as_planned(archive, read_rows(archive, reading, shard), shard, job) for shard in shards]
    return {name: [cell for shard in found for cell in shard.carried[name]] for name in reading.carried}


@pytest.mark.parametrize("kind", ["csv", "jsonl.gz", "jsonl.zst", "parquet"])
def test_every_input_gives_the_same_cells(tmp_path: Path, kind: str) -> None:
    archive = write(tmp_path, kind, rows())
    assert read_all(archive, Reading(None, None, CARRY)) == {
        "product": PRODUCTS,
        "opened at": [row["opened at"] for row in rows()],
    }


def test_cells_as_text(tmp_path: Path) -> None:
    cells = [7, 4.0, 0.25, True, "", None, ["a", "b"], {"a": 1}, " kept "]
    content = [{"id": str(n), "text": "x", "cell": cell} for n, cell in enumerate(cells)] + [{"id": "n", "text": "x"}]
    archive = write(tmp_path, "jsonl.gz", content)
    told = ["7", "4", "0.25", "true", None, None, "a, b", '{"a": 1}', " kept ", None]
    assert read_all(archive, Reading(None, None, ("cell",))) == {"cell": told}


def test_another_cell_is_another_content_and_without_any_all_is_as_before(tmp_path: Path) -> None:
    reading = Reading(None, None, CARRY)
    archive = write(tmp_path, "parquet", rows())
    (shard,) = make_plans(archive, reading, 100, ["job"], lambda row: None)[0].shards
    for changed in ({"product": "Post"}, {"opened at": None}, {"product": "M", "opened at": "ail2024-01-01"}):
        write(tmp_path, "parquet", [rows()[0] | changed, *rows()[1:]])
        with pytest.raises(TriageError, match="not what it was"):
            as_planned(archive, read_rows(archive, reading, shard), shard, "job")
    digest, moved = ShardDigest("job"), ShardDigest("job")
    digest.add("T1", "printer", ("Mail", None))
    moved.add("T1", "printer", (None, "Mail"))
    assert digest.value() != moved.value()
    digest, plain = ShardDigest("job"), hashlib.sha256(b"job")
    digest.add("T1", "größer")
    for part in (b"T1", "größer".encode()):
        plain.update(len(part).to_bytes(8, "little") + part)
    assert digest.value() == plain.hexdigest()[:32]
    assert list(column_kinds(TICKETS_SCHEMA)) == [
        name for name in column_kinds(TICKETS_SCHEMA, False, CARRY) if name not in CARRY
    ]


@pytest.fixture(scope="module", autouse=True)
def ray_in_this_process() -> Iterator[None]:
    import ray

    from triagekit.scoring.layout import start_ray

    assert start_ray(None, workers=2, gpus=0)
    yield
    ray.shutdown()


def parts_of(out: Path, output_format: OutputFormat, carry: tuple[str, ...] = CARRY) -> list[dict[str, Any]]:
    kinds = column_kinds(TICKETS_SCHEMA, False, carry)
    found = []
    for path in sorted(out.glob(f"part-*.{output_format}")):
        columns = read_columns(path, output_format, kinds)
        assert list(columns) == list(kinds)
        found += [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return found


@pytest.mark.parametrize(
    ("kind", "output_format"), [("csv", "parquet"), ("jsonl.zst", "csv"), ("parquet", "jsonl"), ("jsonl.gz", "parquet")]
)
def test_scored_carried_and_split_by_what_was_carried(
    adapter: Path, tmp_path: Path, kind: str, output_format: OutputFormat
) -> None:
    archive, out = write(tmp_path, kind, rows()), tmp_path / "out"
    settings = settings_for(
        adapter, archive, out, carry=list(CARRY), partition_by="product", output_format=output_format
    )
    manifest = score_archive(settings)
    found = parts_of(out, output_format)
    assert [(row["id"], row["product"], row["opened at"]) for row in found] == [
        (row["id"], row["product"], row["opened at"]) for row in rows()
    ]
    assert all(row["verdict"] == "auto" and row["category"] for row in found)
    # Every value has one folder, and its rows are there whole.
    assert manifest.partitions is not None and manifest.partitions["folder"] == "by_product"
    assert sum(manifest.partitions["rows"].values()) == len(PRODUCTS)
    names = {folder.name: product for product in PRODUCTS for folder in [Path(ValueFolders("product").of(product))]}
    assert len(names) == len(set(PRODUCTS)) == len(manifest.partitions["rows"])
    assert {folder.name for folder in (out / "by_product").iterdir()} == set(names)
    kinds = {name: kind for name, kind in column_kinds(TICKETS_SCHEMA, False, CARRY).items() if name != "product"}
    for name, product in names.items():
        there: list[dict[str, Any]] = []
        for path in sorted((out / "by_product" / name).iterdir()):
            columns = read_columns(path, output_format, kinds)
            there += [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        assert [{**row, "product": product} for row in there] == [row for row in found if row["product"] == product]
    if output_format == "csv":
        with (out / "part-00000.csv").open(encoding="utf-8", newline="") as handle:
            csv.field_size_limit(1 << 20)
            cells = [cell for row in csv.reader(handle) for cell in row]
        assert "'=1+1" in cells and "''quoted" in cells and "'-" in cells
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    # Part of the job: with others, or none, the folder is not gone on with.
    for carry in ([], ["product"], ["opened at", "product"]):
        with pytest.raises(ProblemsError, match=r"carried columns: begun with \[\"product\", \"opened at\"\], now"):
            score_archive(settings.model_copy(update={"carry": carry, "partition_by": None}))
    # A lost part comes back the same, read from the middle of the archive.
    lost = out / f"part-00001.{output_format}"
    before = lost.read_bytes()
    lost.unlink()
    assert score_archive(settings.model_copy(update={"partition_by": "opened at"})).scored_now == len(PRODUCTS) - 16
    assert lost.read_bytes() == before
    assert (out / "by_opened at" / "opened at=2024-01-01").is_dir()


def test_other_programs_read_the_folders(adapter: Path, tmp_path: Path) -> None:
    archive, out = write(tmp_path, "parquet", rows()), tmp_path / "out"
    score_archive(settings_for(adapter, archive, out, carry=["product"], partition_by="product"))
    table = pyarrow.dataset.dataset(out / "by_product", partitioning="hive").to_table(columns=["id", "product"])
    read = dict(zip(table["id"].to_pylist(), table["product"].to_pylist(), strict=True))
    long = {row["id"] for row in rows() if len(row["product"] or "") > 100}
    assert len(read) == len(PRODUCTS) and len(long) == 3
    # Arrow takes the word that stands for none for that, however it is written.
    assert {key: value for key, value in read.items() if key not in long} == {
        row["id"]: None if row["product"] == NULL else row["product"] for row in rows() if row["id"] not in long
    }
    assert all(read[key].startswith(("日本", "xxx", "long y")) and "~" in read[key] for key in long)


def test_names_of_folders() -> None:
    folders = ValueFolders("größe/" * 30)
    names = [folders.of(value) for value in ["日" * 500, "日" * 501, "é", "x" * 999, None]]
    assert len(set(names)) == 5 and max(len(name.encode()) for name in names) <= LONGEST_NAME
    assert not any("/" in name for name in names)
    assert ValueFolders("a").of("Hardware / other") == "a=Hardware %2F other"
    few = ValueFolders("opened")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triagekit.scoring.partition.MOST_VALUES", 3)
        assert [few.of(value) for value in ("a", None, "b", "a")] == [
            "opened=a",
            f"opened={NULL}",
            "opened=b",
            "opened=a",
        ]
        with pytest.raises(TriageError, match=r"'opened' has more than 3 values \('a', .*by a column of fewer"):
            few.of("c")


def test_too_many_values_are_told_before_anything_is_scored(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, out = write(tmp_path, "csv", rows()), tmp_path / "out"
    settings = settings_for(adapter, archive, out, carry=list(CARRY), partition_by="opened at")
    monkeypatch.setattr("triagekit.scoring.partition.MOST_VALUES", 10)
    with pytest.raises(TriageError, match="more than 10 values"):
        score_archive(settings)
    assert not list(out.glob("part-*"))
    assert score_archive(settings.model_copy(update={"partition_by": "category"})).rows_out == len(PRODUCTS)
    with pytest.raises(TriageError, match="more than 10 values"):
        score_archive(settings)
    assert not list(out.glob("by_opened*")) and len(list(out.glob("part-*"))) == 2


def test_several_runs_in_one_pass(adapter: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    other = make_adapter(tmp_path / "labels" / "adapter", tiny_model_folder, LABELS_SCHEMA, seed=1).parent
    archive = write(tmp_path, "parquet", rows())
    settings = settings_for(adapter, archive, tmp_path / "both", carry=["product"], partition_by="product")
    jobs = for_runs(settings, [str(adapter), str(other)])
    first, second = score_archives(jobs)
    assert first.partitions == second.partitions and len(first.partitions["rows"]) == len(set(PRODUCTS))  # type: ignore[index]
    alone = settings.model_copy(update={"out": str(tmp_path / "alone"), "merged": False})
    score_archive(alone)
    assert parts_of(Path(jobs[0].out), "parquet", ("product",)) == parts_of(Path(alone.out), "parquet", ("product",))


def test_what_is_new_later(adapter: Path, tmp_path: Path) -> None:
    archive, out = write(tmp_path, "csv", rows()), tmp_path / "out"
    first = settings_for(adapter, archive, out, carry=["product"])
    score_archive(first)
    # Of a ticket whose text is the same, another cell is nothing new: the score would be the same.
    changed = [rows()[0] | {"product": "Post"}, *rows()[1:], {"id": "N", "text": "new", "product": "ERP"}]
    later = write(tmp_path, "jsonl.gz", changed)
    appended = first.model_copy(
        update={"archive": str(later), "out": str(tmp_path / "later"), "append_since": first.out}
    )
    manifest = score_archive(appended)
    assert (manifest.unchanged, manifest.rows_out) == (len(PRODUCTS), 1)
    assert [row["product"] for row in parts_of(tmp_path / "later", "parquet", ("product",))] == ["ERP"]
    wider = appended.model_copy(update={"carry": ["product", "opened at"], "out": str(tmp_path / "wider")})
    with pytest.raises(ProblemsError, match="scored in another way") as refused:
        score_archive(wider)
    assert [problem.where for problem in refused.value.problems] == ["carried columns"]
    assert score_archive(wider.model_copy(update={"append_any": True})).rows_out == 1


def standing(folder: Path, products: list[str]) -> None:
    """A part for each product."""
    folder.mkdir()
    for index, product in enumerate(products):
        shard = Shard(index, ((f"T{index}", "printer"),), "f", {"product": (product,)})
        write_part(folder, TICKETS_SCHEMA, shard, [failed_prediction("no")], "adapter")


def test_long_cells_are_not_in_memory_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(tmp_path / "out", ["aaaa", "aa", "aa", "aaaa"])
    monkeypatch.setattr("triagekit.scoring.partition.CHARACTERS_AT_ONCE", 4)
    told = write_partitions(tmp_path / "out", "verdict", TICKETS_SCHEMA, False, "parquet", range(4), ["product"])
    assert told["rows"] == {"error": 4}
    names = sorted(path.name for path in (tmp_path / "out" / "by_verdict" / "verdict=error").iterdir())
    assert names == [f"part-0000{number}.parquet" for number in range(3)]


def test_a_file_system_that_does_not_tell_case_loses_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(tmp_path / "out", ["Mail", "mail"])
    real = Path.mkdir

    def folding(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        folded = self.with_name(self.name.casefold())
        real(folded, mode, parents, exist_ok)
        if folded != self:
            self.symlink_to(folded.name)

    monkeypatch.setattr(Path, "mkdir", folding)
    with pytest.raises(TriageError, match="does not tell product=mail from a folder that differs in case"):
        write_partitions(tmp_path / "out", "product", TICKETS_SCHEMA, False, "parquet", range(2), ["product"])


def test_columns_that_cannot_be_carried_are_told_at_once(adapter: Path, tmp_path: Path) -> None:
    archive = write(tmp_path, "csv", [row | {"Category": "x", "raw": "y", "site": "", "SITE": ""} for row in rows()])
    out = tmp_path / "out"
    settings = settings_for(
        adapter, archive, out, carry=["produkt", "Category", "raw", "opened at", "opened at", "site", "SITE"]
    )
    with pytest.raises(ProblemsError) as refused:
        score_archive(settings)
    told = str(refused.value)
    assert [problem.where for problem in refused.value.problems] == [
        f"carry '{name}'" for name in ("produkt", "Category", "raw", "opened at", "SITE")
    ]
    assert "Did you mean 'product'?" in told and "the output has a column 'category'" in told
    assert "rename: {raw: input_raw}" in told and "cannot tell it from 'site'" in told and "named twice" in told
    assert not out.exists()
    for wrong, message in (
        ({"partition_by": "product"}, r"cannot be split by 'product'.*carry=\[product\]"),
        ({"text_column": "txet"}, "Did you mean 'text'"),
    ):
        with pytest.raises(TriageError, match=message):
            score_archive(settings_for(adapter, archive, out, **wrong))
        assert not out.exists(), "mended, the same command works"
    check_carried(["text", "product"], [TICKETS_SCHEMA, LABELS_SCHEMA], ["id", "text", "product"])
    with pytest.raises(ProblemsError, match="carry 'risk'"):
        check_carried(["risk"], [TICKETS_SCHEMA, LABELS_SCHEMA], [])
    check_partition_column(TICKETS_SCHEMA, "product", ["product"])


def test_a_mapping_gives_another_name(adapter: Path, tmp_path: Path) -> None:
    archive = write(tmp_path, "csv", [row | {"category": f"old {row['id']}"} for row in rows()[:3]])
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("rename: {category: input_category}\ntext: text\n")
    out = tmp_path / "out"
    words = ["score", str(archive), "--run", str(adapter), "--out", str(out), "--mapping", str(mapping)]
    words += ["--carry", "input_category, product", "--format", "jsonl", "--device", "cpu", "--workers", "1"]
    assert main(words) == 0
    found = parts_of(out, "jsonl", ("input_category", "product"))
    assert [(row["input_category"], row["product"]) for row in found] == [
        ("old T0", "Mail"),
        ("old T1", "mail"),
        ("old T2", None),
    ]
    job = json.loads((out / "job.json").read_text(encoding="utf-8"))
    assert job["carry"] == ["input_category", "product"]


def test_jobs_that_carry_nothing_are_what_they_were(adapter: Path, tmp_path: Path) -> None:
    archive = write(tmp_path, "csv", rows()[:2])
    manifest = score_archive(settings_for(adapter, archive, tmp_path / "out"))
    assert "carry" not in manifest.job
    assert ScoreSettings.model_validate({"archive": "a", "run": "r", "out": "o"}).carry == []
