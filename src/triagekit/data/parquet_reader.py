"""Parquet rows in small batches; a broken row group costs that group only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from triagekit.data.byte_streams import BrokenSource, byte_chunks, compression_of
from triagekit.data.pieces import RawRow, Reject
from triagekit.errors import TriageError
from triagekit.files.remote import AnyPath

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1_024


def read_parquet(path: AnyPath, file: str, begin: int = 1) -> Iterator[RawRow | Reject]:
    """Rows of a Parquet file (also gzip or zstd around it); `line` is the row number, counted from 1.

    Row groups before row `begin` are not read.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise TriageError("Reading Parquet needs pyarrow: pip install triagekit[data]") from None
    try:
        with _uncompressed(path) as plain:
            try:
                parquet = pq.ParquetFile(plain)
            except (pa.ArrowException, OSError) as error:
                yield Reject(file, 0, "not a readable Parquet file", "", _first_line(error))
                return
            with parquet:
                yield from _row_groups(parquet, file, begin)
    except BrokenSource as error:
        yield Reject(file, 0, error.reason, "", error.detail)


def _row_groups(parquet: Any, file: str, begin: int) -> Iterator[RawRow | Reject]:
    import pyarrow as pa

    first = 1
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if first + rows <= begin:
            first += rows
            continue
        done = 0
        try:
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, row_groups=[group]):
                skipped = min(batch.num_rows, max(0, begin - first - done))
                for offset, values in enumerate(_values(batch.slice(skipped)), start=skipped):
                    line = first + done + offset
                    if any(isinstance(value, str) and "\0" in value for value in values.values()):
                        yield Reject(file, line, "NUL byte", str(values))
                    else:
                        yield RawRow(line, file, values)
                done += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            lost = f"rows {first + done} to {first + rows - 1}: {_first_line(error)}"
            for line in range(max(begin, first + done), first + rows):
                yield Reject(file, line, "broken Parquet row group", "", lost)
        first += rows


def _values(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    import pyarrow as pa

    try:
        return list(batch.to_pylist())
    except (UnicodeDecodeError, pa.ArrowInvalid):
        # Some cell is not UTF-8: read text columns as bytes, and mark the bytes that do not fit.
        columns: dict[str, list[Any]] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                raw = column.cast(pa.large_binary()).to_pylist()
                columns[name] = [None if cell is None else cell.decode("utf-8", "surrogateescape") for cell in raw]
            else:
                columns[name] = column.to_pylist()
        return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


@contextmanager
def _uncompressed(path: AnyPath) -> Iterator[Path | BinaryIO]:
    if not compression_of(path):
        if isinstance(path, Path):
            yield path
        else:
            with path.open("rb") as handle:
                yield handle
        return
    # Parquet is read from its end, so a compressed one must be unpacked to disk first.
    with tempfile.TemporaryDirectory(prefix="triagekit-") as folder:
        plain = Path(folder) / "unpacked.parquet"
        with plain.open("wb") as handle:
            for chunk in byte_chunks(path):
                handle.write(chunk)
        yield plain


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
