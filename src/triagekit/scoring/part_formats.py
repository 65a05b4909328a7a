"""The tables of a job as Parquet, JSON lines or CSV: written from columns, read back to the same columns."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from triagekit.data.spreadsheet import guarded, unguarded

if TYPE_CHECKING:
    import pyarrow

    from triagekit.scoring.part_columns import Columns, Kind

OutputFormat = Literal["parquet", "jsonl", "csv"]
METADATA = b"triagekit"


def write_columns(
    path: Path, output_format: OutputFormat, kinds: Mapping[str, Kind], columns: Columns, metadata: str = "{}"
) -> None:
    """Write the columns of `kinds`, in that order. `metadata` (JSON) has a place only inside Parquet."""
    if output_format == "parquet":
        import pyarrow
        import pyarrow.parquet

        layout = arrow_schema(kinds).with_metadata({METADATA: metadata.encode()})
        table = pyarrow.Table.from_pydict({name: columns[name] for name in kinds}, schema=layout)
        pyarrow.parquet.write_table(table, path, compression="zstd", write_page_checksum=True)
        return
    with path.open("w", encoding="utf-8", newline="") as handle:
        if output_format == "jsonl":
            for row in _rows(kinds, columns):
                handle.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            return
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([guarded(name) for name in kinds])
        for row in _rows(kinds, columns):
            writer.writerow([_csv_cell(value) for value in row.values()])


def read_columns(path: Path, output_format: OutputFormat, kinds: Mapping[str, Kind]) -> Columns:
    """The columns of a file that write_columns wrote; an empty CSV cell is null. Raises OSError, ValueError, KeyError."""
    if output_format == "parquet":
        with path.open("rb") as handle:
            table = read_parquet(handle)
        return {name: table.column(name).to_pylist() for name in kinds}
    columns: Columns = {name: [] for name in kinds}
    with path.open(encoding="utf-8", newline="") as handle:
        if output_format == "jsonl":
            for line in handle:
                row = json.loads(line)
                for name in kinds:
                    columns[name].append(row[name])
            return columns
        # By default a cell of more than 128 KiB is an error, and a carried column may hold one.
        csv.field_size_limit(sys.maxsize)
        reader = csv.reader(handle)
        places = {unguarded(name): place for place, name in enumerate(next(reader))}
        for cells in reader:
            for name, kind in kinds.items():
                columns[name].append(_value(cells[places[name]], kind))
    return columns


def read_parquet(handle: BinaryIO) -> pyarrow.Table:
    """A Parquet file whole, page checksums included. Raises OSError or pyarrow.ArrowException for a damaged one."""
    import pyarrow.parquet

    # The caller opens the file, as pyarrow would keep the mapping of a damaged one alive in its error.
    return pyarrow.parquet.read_table(handle, page_checksum_verification=True)


def arrow_schema(kinds: Mapping[str, Kind]) -> pyarrow.Schema:
    """The kinds as Arrow types."""
    import pyarrow

    types = {"text": pyarrow.string(), "texts": pyarrow.list_(pyarrow.string()), "number": pyarrow.float64()}
    return pyarrow.schema([(name, types[kind]) for name, kind in kinds.items()])


def _rows(kinds: Mapping[str, Kind], columns: Columns) -> Iterator[dict[str, Any]]:
    for cells in zip(*(columns[name] for name in kinds), strict=True):
        yield dict(zip(kinds, cells, strict=True))


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return guarded(value)
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _value(cell: str, kind: Kind) -> Any:
    if not cell:
        return None
    if kind == "text":
        return unguarded(cell)
    return float(cell) if kind == "number" else json.loads(cell)
