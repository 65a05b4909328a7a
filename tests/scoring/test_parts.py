"""Parts in every format: the same rows back, damage found, what a kill leaves not trusted; rows split by a column."""

from __future__ import annotations

import csv
import json
import math
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
from scoring_helpers import LABELS_SCHEMA

from triagekit.data.spreadsheet import guarded, unguarded
from triagekit.errors import TriageError
from triagekit.schema.validate import FieldProblem
from triagekit.scoring.confidence_map import ConfidenceMap, StoredCalibration
from triagekit.scoring.intake import Shard, text_hash
from triagekit.scoring.part_columns import column_kinds
from triagekit.scoring.part_formats import OutputFormat, read_columns
from triagekit.scoring.partition import check_partition_column, write_partitions
from triagekit.scoring.parts import DamagedPart, ledger_path, part_files, part_path, read_part, remove_part, write_part
from triagekit.scoring.policy import ThresholdPolicy, policy_figures
from triagekit.scoring.predictor import Prediction, failed_prediction

FORMATS: tuple[OutputFormat, ...] = ("parquet", "jsonl", "csv")
NAMES = [field.name for field in LABELS_SCHEMA.label_fields]
HALVED = StoredCalibration(
    "adapter", LABELS_SCHEMA.fingerprint, "data", "val", 80, dict.fromkeys(NAMES, ConfidenceMap(0.5, 0.0)),
    ConfidenceMap(0.5, 0.0),
)  # fmt: skip
POLICY = ThresholdPolicy(0.8, HALVED)
EVIL = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1", '"quoted", "twice"', "two\nlines", "＝1", "日本", "plain"]


def predictions() -> list[Prediction]:
    found = []
    for number, _ in enumerate(EVIL):
        record = {"only": "always", "risk": ("low", "high")[number % 2], "detail": "fine", "marks": ["a", "c"]}
        share = 1 - 0.5 ** (2 + number)
        found.append(Prediction(record, dict.fromkeys(NAMES, share), "auto", (), "{}"))
    found[3] = failed_prediction("=cmd|' /C calc'!A0")
    found[4] = Prediction({"only": None}, {}, "review", (FieldProblem("risk", None, "missing"),), "-what it wrote")
    return found


def shard_of(index: int = 0) -> Shard:
    return Shard(index, tuple((f"{identity}#{index}", f"text {identity}") for identity in EVIL), f"print-{index}")


def written(folder: Path, output_format: OutputFormat, index: int = 0) -> Any:
    return write_part(folder, LABELS_SCHEMA, shard_of(index), predictions(), "adapter", POLICY, output_format)


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_same_rows_come_back_from_every_format(tmp_path: Path, output_format: OutputFormat) -> None:
    summary = written(tmp_path, output_format)
    path = part_path(tmp_path, 0, output_format)
    kinds = column_kinds(LABELS_SCHEMA, True)
    columns = read_columns(path, output_format, kinds)
    assert columns["id"] == [f"{identity}#0" for identity in EVIL]
    assert columns["text_hash"][0] == text_hash("text =1+1")
    assert columns["marks"][0] == ["a", "c"] and columns["marks"][3] is None
    assert columns["error"][3] == "=cmd|' /C calc'!A0" and columns["raw"][4] == "-what it wrote"
    # Calibrated: the log odds halved; raw ones beside them, and the chance of the whole record.
    assert columns["raw_confidence_risk"][0] == 0.75
    assert columns["confidence_risk"][0] == pytest.approx(1 / (1 + math.sqrt(1 / 3)))
    product = 0.75**4
    assert columns["confidence_record"][0] == pytest.approx(1 / (1 + math.sqrt((1 - product) / product)))
    assert columns["confidence_record"][3] is None
    chances = [chance for chance in columns["confidence_record"] if chance is not None]
    auto = [chance for chance in chances if chance >= 0.8]
    assert 0 < len(auto) < len(chances)
    assert summary.verdicts == {"auto": len(auto), "review": len(EVIL) - 1 - len(auto), "error": 1}
    figures = policy_figures(POLICY, summary.verdicts, [summary.chance_of_auto])
    assert figures["coverage"] == len(auto) / len(EVIL)
    assert figures["expected_error"] == pytest.approx(1 - sum(auto) / len(auto))
    assert summary.tally["values"]["risk"] == {"low": 5, "high": 4, "(null)": 1}
    assert summary.tally["values"]["marks"]["a"] == 9 and summary.tally["values"]["marks"]["(none)"] == 1
    assert sum(summary.tally["bins"]["record"]) == len(chances)
    assert read_part(path, 0, "print-0", len(EVIL)) == summary
    assert part_files(tmp_path, output_format) == {0: path}


@pytest.mark.parametrize("output_format", FORMATS)
def test_damage_and_what_a_kill_leaves_is_found(tmp_path: Path, output_format: OutputFormat) -> None:
    written(tmp_path, output_format)
    path = part_path(tmp_path, 0, output_format)
    content = path.read_bytes()
    # Parquet's checksums cover the pages, not every byte of the headers; the digest of the others covers all.
    for place in (40,) if output_format == "parquet" else (5, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with pytest.raises(DamagedPart):
            read_part(path, 0, "print-0", len(EVIL))
    path.write_bytes(content[:-7])
    with pytest.raises(DamagedPart):
        read_part(path, 0, "print-0", len(EVIL))
    path.write_bytes(content)
    with pytest.raises(DamagedPart, match="other rows"):
        read_part(path, 0, "print-1", len(EVIL))
    with pytest.raises(DamagedPart, match="instead of 3"):
        read_part(path, 0, "print-0", 3)
    if output_format != "parquet":
        entry = ledger_path(path).read_bytes()
        ledger_path(path).write_bytes(entry[:20])
        with pytest.raises(DamagedPart, match="cannot be read"):
            read_part(path, 0, "print-0", len(EVIL))
        ledger_path(path).unlink()
        with pytest.raises(DamagedPart, match="written, but not finished"):
            read_part(path, 0, "print-0", len(EVIL))
    remove_part(path)
    assert part_files(tmp_path, output_format) == {}


def test_no_csv_cell_is_a_formula(tmp_path: Path) -> None:
    written(tmp_path, "csv")
    with part_path(tmp_path, 0, "csv").open(encoding="utf-8", newline="") as handle:
        cells = [cell for row in csv.reader(handle) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))]
    assert "'=1+1#0" in cells and "''=1#0" in cells and "'=cmd|' /C calc'!A0" in cells
    assert all(unguarded(guarded(cell)) == cell for cell in [*EVIL, "", "'", "''"])


@pytest.mark.parametrize("output_format", FORMATS)
def test_rows_split_by_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output_format: OutputFormat) -> None:
    for index in range(3):
        written(tmp_path, output_format, index)
    monkeypatch.setattr("triagekit.scoring.partition.ROWS_AT_ONCE", 20)
    told = write_partitions(tmp_path, "risk", LABELS_SCHEMA, True, output_format, range(3))
    assert told == {
        "column": "risk",
        "folder": "by_risk",
        "rows": {"__HIVE_DEFAULT_PARTITION__": 6, "high": 12, "low": 15},
    }
    files = sorted(path.relative_to(tmp_path / "by_risk").as_posix() for path in (tmp_path / "by_risk").rglob("part-*"))
    assert f"risk=low/part-00001.{output_format}" in files and len(files) == 6
    kinds = {name: kind for name, kind in column_kinds(LABELS_SCHEMA, True).items() if name != "risk"}
    found = [read_columns(tmp_path / "by_risk" / name, output_format, kinds)["id"] for name in files]
    assert sorted(chain(*found)) == sorted(identity for index in range(3) for identity, _ in shard_of(index).rows)
    before = {name: (tmp_path / "by_risk" / name).read_bytes() for name in files}
    assert write_partitions(tmp_path, "risk", LABELS_SCHEMA, True, output_format, range(3)) == told
    assert {name: (tmp_path / "by_risk" / name).read_bytes() for name in files} == before
    if output_format == "parquet":
        table = pyarrow.dataset.dataset(tmp_path / "by_risk", partitioning="hive").to_table()
        assert sorted(map(str, table["risk"].to_pylist())) == ["None"] * 6 + ["high"] * 12 + ["low"] * 15


def test_columns_that_cannot_split() -> None:
    for column in ("marks", "id", "rusk"):
        with pytest.raises(TriageError, match=f"cannot be split by '{column}'"):
            check_partition_column(LABELS_SCHEMA, column)
    check_partition_column(LABELS_SCHEMA, "detail")
    check_partition_column(LABELS_SCHEMA, "verdict")


def test_json_lines_are_plain(tmp_path: Path) -> None:
    written(tmp_path, "jsonl")
    rows = [json.loads(line) for line in part_path(tmp_path, 0, "jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0]["id"] == "=1+1#0" and rows[0]["marks"] == ["a", "c"] and rows[3]["risk"] is None
