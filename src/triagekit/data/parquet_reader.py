"""Parquet rows in small batches, of the columns that are wanted; a broken row group costs that group only."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from triagekit.data.byte_streams import BrokenSource, byte_chunks, compression_of
from triagekit.data.pieces import RawRow, Reject
from triagekit.errors import TriageError
from triagekit.files.remote import AnyPath

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1_024
ColumnChoice = Callable[[Sequence[str]], Sequence[str] | None]
"""Of the columns that a file has, those to be read; None for all."""


class KeptParquet:
    """The file that was left last before its end, still open. Who reads one piece after the other, as an archive's workers do,
    decodes each row group once."""

    def __init__(self) -> None:
        self._left: _OpenParquet | None = None

    def take(self, path: AnyPath, begin: int) -> _OpenParquet | None:
        """The file, if it is this one and row `begin` can still be had of it. It is taken to be the same file as long as it
        has its name: who reads shards holds them against the fingerprints of their plan."""
        left, self._left = self._left, None
        if left is not None and not (str(left.path) == str(path) and left.reaches(begin)):
            left.close()
            return None
        return left

    def keep(self, left: _OpenParquet) -> None:
        """Go on with this one next time."""
        self._left = left


def read_parquet(
    path: AnyPath, file: str, begin: int = 1, columns: ColumnChoice | None = None, kept: KeptParquet | None = None
) -> Iterator[RawRow | Reject]:
    """Rows of a Parquet file (also gzip or zstd around it); `line` is the row number, counted from 1.

    Row groups before row `begin` are not read, nor columns that `columns` leaves out. With `kept` a file that is left before
    its end is gone on with.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise TriageError("Reading Parquet needs pyarrow: pip install triagekit[data]") from None
    parquet = None if kept is None else kept.take(path, begin)
    try:
        parquet = parquet or _OpenParquet(path, columns)
    except BrokenSource as error:
        yield Reject(file, 0, error.reason, "", error.detail)
        return
    except (pa.ArrowException, OSError) as error:
        yield Reject(file, 0, "not a readable Parquet file", "", _first_line(error))
        return
    try:
        yield from parquet.pieces(file, begin)
    except GeneratorExit:
        if kept is not None:
            kept.keep(parquet)
            parquet = None
        raise
    finally:
        if parquet is not None:
            parquet.close()


class _OpenParquet:
    """A Parquet file on its way from the first row group to the last."""

    def __init__(self, path: AnyPath, columns: ColumnChoice | None) -> None:
        """Raises BrokenSource, OSError or pyarrow.ArrowException where it cannot be read."""
        import pyarrow.parquet as pq

        self.path = path
        with ExitStack() as stack:
            self._parquet = stack.enter_context(pq.ParquetFile(stack.enter_context(_uncompressed(path))))
            self._close = stack.pop_all().close
        chosen = None if columns is None else columns(self._parquet.schema_arrow.names)
        self._columns = None if chosen is None else list(chosen)
        self._group = 0
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._next = self._end = 1
        """The row behind the last batch, and the one behind the row group that it is of."""
        self._last: tuple[int, list[dict[str, Any]]] | None = None
        """The rows of the last batch, behind the number of the first: a reader stops inside of it, and the next piece begins
        there."""

    def close(self) -> None:
        """Give the file back."""
        self._close()

    def reaches(self, begin: int) -> bool:
        """Whether row `begin` can still be had."""
        return begin >= (self._next if self._last is None else self._last[0])

    def pieces(self, file: str, begin: int) -> Iterator[RawRow | Reject]:
        """All from row `begin` on; to be left and called again for a later row."""
        import pyarrow as pa

        if self._last is not None:
            yield from _pieces(file, begin, *self._last)
        while self._goes_on(begin):
            assert self._batches is not None
            try:
                batch = next(self._batches, None)
                if batch is None:
                    self._next, self._batches = self._end, None
                    continue
                skipped = min(batch.num_rows, max(0, begin - self._next))
                self._last = self._next + skipped, self._rows(batch.slice(skipped))
            except (pa.ArrowException, OSError) as error:
                first, self._next = self._next, self._end
                self._batches = self._last = None
                lost = f"rows {first} to {self._end - 1}: {_first_line(error)}"
                for line in range(max(begin, first), self._end):
                    yield Reject(file, line, "broken Parquet row group", "", lost)
                continue
            self._next += batch.num_rows
            yield from _pieces(file, begin, *self._last)

    def _rows(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        # Of a column called `a.b` Arrow takes a part of the column `a` for one too.
        return _values(batch if self._columns is None else batch.select(self._columns))

    def _goes_on(self, begin: int) -> bool:
        """Whether a batch may follow; row groups that end before row `begin` are passed over."""
        while self._batches is None or self._end <= begin:
            if self._group == self._parquet.num_row_groups:
                return False
            self._next = self._end
            self._end += self._parquet.metadata.row_group(self._group).num_rows
            if self._end > begin:
                self._batches = self._parquet.iter_batches(
                    batch_size=BATCH_ROWS, row_groups=[self._group], columns=self._columns
                )
            self._group += 1
        return True


def _pieces(file: str, begin: int, first: int, rows: list[dict[str, Any]]) -> Iterator[RawRow | Reject]:
    """Those of `rows`, of which the first has number `first`, from row `begin` on."""
    for line, values in enumerate(rows[max(0, begin - first) :], start=max(begin, first)):
        if any(isinstance(value, str) and "\0" in value for value in values.values()):
            yield Reject(file, line, "NUL byte", str(values))
        else:
            yield RawRow(line, file, values)


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
