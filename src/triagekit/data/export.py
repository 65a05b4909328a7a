"""Flat rows to one JSONL, CSV or Parquet file, by its ending."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from triagekit.data.sources import FORMATS
from triagekit.errors import TriageError, did_you_mean
from triagekit.files.atomic import atomic_path, write_jsonl

ENDINGS = (".jsonl", ".csv", ".parquet")
BATCH_ROWS = 10_000


def check_ending(path: Path) -> str:
    """The ending of a file that rows can be written to. Raises TriageError for another one."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        known = f"'{ending}' can be read but not written. " if ending in FORMATS else ""
        raise TriageError(f"Cannot write {path}: {known}{did_you_mean(ending, ENDINGS)}")
    return ending


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows, streamed and in one step (the old file stays until the new one is whole). Returns their number.

    Columns of CSV and Parquet are those of the first batch of 10,000 rows, in first-seen order; empty where absent.
    """
    ending = check_ending(path)
    if ending == ".jsonl":
        return write_jsonl(path, rows)
    iterator = iter(rows)
    first = list(islice(iterator, BATCH_ROWS))
    columns = list(dict.fromkeys(name for row in first for name in row))
    if not columns:
        raise TriageError(f"There are no rows to write to {path}.")
    with atomic_path(path) as temporary:
        write = _write_csv if ending == ".csv" else _write_parquet
        return write(temporary, columns, first, iterator)


def _write_csv(
    path: Path, columns: list[str], batch: list[Mapping[str, Any]], rest: Iterable[Mapping[str, Any]]
) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        for source in (batch, rest):
            for row in source:
                writer.writerow({name: row.get(name) for name in columns})
                count += 1
    return count


def _write_parquet(
    path: Path, columns: list[str], batch: list[Mapping[str, Any]], rest: Iterable[Mapping[str, Any]]
) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise TriageError("Writing Parquet needs pyarrow: pip install triagekit[data]") from None
    schema = pa.table({name: [row.get(name) for row in batch] for name in columns}).schema
    iterator = iter(rest)
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch:
            writer.write_table(pa.table({name: [row.get(name) for row in batch] for name in columns}, schema=schema))
            count += len(batch)
            batch = list(islice(iterator, BATCH_ROWS))
    return count
