"""CSV and TSV rows. One broken row costs that row only: a quote that is never closed does not swallow what follows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass

from triagekit.data.pieces import RawRow, Reject
from triagekit.data.source_settings import SourceSettings
from triagekit.data.text_lines import Line, LineSource

DELIMITERS = (",", ";", "\t", "|")
MAX_LINES_PER_ROW = 2_000


@dataclass(frozen=True)
class _Record:
    """Cells of one row, or the reason why there are none; `lines` are the physical lines it took."""

    lines: list[Line]
    cells: list[str] | None
    problem: tuple[str, str] | None = None

    @property
    def raw(self) -> str:
        return "".join(line.text for line in self.lines[:20])


def read_csv(source: LineSource, file: str, settings: SourceSettings, tabs: bool = False) -> Iterator[RawRow | Reject]:
    """Rows of a CSV source as dictionaries by column name; values are text, "" where a cell is empty."""
    # The limit of the csv module is 128 KiB by default and raises; ours is on the row and rejects.
    csv.field_size_limit(max(csv.field_size_limit(), settings.max_row_characters + 1))
    delimiter = "\t" if tabs and settings.delimiter == "auto" else settings.delimiter
    columns = list(settings.columns) if settings.columns is not None else None
    while (first := source.next()) is not None:
        if not first.text.strip() and first.problem is None:
            continue
        if delimiter == "auto":
            delimiter = _delimiter(first.text)
        record = _record(first, source, delimiter, settings.max_row_characters)
        if columns is None and record.cells is not None:
            columns = _column_names(record.cells)
            continue
        if record.problem is None and record.cells is not None and columns is not None:
            if len(record.cells) == len(columns):
                if any("\0" in cell for cell in record.cells):
                    yield Reject(file, first.number, "NUL byte", record.raw)
                else:
                    yield RawRow(first.number, file, dict(zip(columns, record.cells, strict=True)))
                continue
            detail = f"expected {len(columns)} columns, found {len(record.cells)}"
            record = _Record(record.lines, None, ("ragged row", detail))
            _return_good_lines(record, source, delimiter, len(columns))
        elif record.problem is not None and len(record.lines) > 1:
            # A row that broke gives back every line but its first: they are rows of their own, or broken ones.
            source.push_back(record.lines[1:])
            record = _Record(record.lines[:1], None, record.problem)
        reason, detail = record.problem or ("no header", "the first row of the file cannot be read as column names")
        yield Reject(file, first.number, reason, record.raw, detail)


def _return_good_lines(record: _Record, source: LineSource, delimiter: str, width: int) -> None:
    """A ragged row over several lines: if its second line alone is a whole row, a stray quote has swallowed it."""
    if len(record.lines) < 2:
        return
    following = record.lines[1].text
    if width > 1 and following.count('"') % 2 == 0:
        cells = next(csv.reader([following], delimiter=delimiter), [])
        if len(cells) == width:
            source.push_back(record.lines[1:])
            del record.lines[1:]


def _record(first: Line, source: LineSource, delimiter: str, limit: int) -> _Record:
    if first.problem is not None:
        return _Record([first], None, first.problem)
    if '"' not in first.text:
        return _Record([first], first.text.rstrip("\r\n").split(delimiter))
    taken = [first]
    size = len(first.text)
    stopped: list[tuple[str, str]] = []

    def lines() -> Iterator[str]:
        nonlocal size
        yield first.text
        while (line := source.next()) is not None:
            if line.problem is not None:
                source.push_back([line])
                return
            size += len(line.text)
            taken.append(line)
            if size > limit or len(taken) > MAX_LINES_PER_ROW:
                stopped.append(("quote never closed", f"no closing quote within {len(taken)} lines"))
                return
            yield line.text

    try:
        cells = next(csv.reader(lines(), delimiter=delimiter, strict=True))
    except csv.Error as error:
        message = str(error)
        if stopped:
            return _Record(taken, None, stopped[0])
        if "unexpected end" in message:
            return _Record(taken, None, ("quote never closed", "the file ends inside a quoted cell"))
        if "expected after" in message:
            return _Record(taken, None, ("text after closing quote", "quotes inside a quoted cell must be doubled"))
        return _Record(taken, None, ("unreadable row", message))
    return _Record(taken, cells)


def _delimiter(header: str) -> str:
    outside = "".join(part for index, part in enumerate(header.split('"')) if index % 2 == 0)
    return max(DELIMITERS, key=lambda candidate: (outside.count(candidate), -DELIMITERS.index(candidate)))


def _column_names(cells: list[str]) -> list[str]:
    """Header cells as names: stripped, unnamed ones numbered, repeated ones told apart by `_2`, `_3`, …"""
    names: list[str] = []
    for number, cell in enumerate(cells, start=1):
        name = base = cell.strip() or f"column_{number}"
        again = 2
        while name in names:
            name = f"{base}_{again}"
            again += 1
        names.append(name)
    return names
