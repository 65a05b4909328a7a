"""CSV and TSV rows. One broken row costs that row only: a quote that is never closed does not swallow what follows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from triagekit.data.marks import Mark
from triagekit.data.pieces import RawRow, Reject
from triagekit.data.source_settings import SourceSettings
from triagekit.data.text_lines import Line, LineSource

DELIMITERS = (",", ";", "\t", "|")
MAX_LINES_PER_ROW = 2_000
ENOUGH_ROWS = 3
"""Good rows after which the look of their first cells counts."""
_ID_LIKE = re.compile(r"^[\w./:#-]*\d[\w./:#-]*$")


@dataclass(frozen=True)
class _Record:
    """Cells of one row, or the reason why there are none; `lines` are the physical lines it took."""

    lines: list[Line]
    cells: list[str] | None
    problem: tuple[str, str] | None = None

    @property
    def raw(self) -> str:
        return "".join(line.text for line in self.lines[:20])


class CsvRows:
    """Rows of a CSV source as dictionaries by column name; values are text, "" where a cell is empty.

    `start`: a mark of the same file, where the source begins.
    """

    def __init__(
        self, source: LineSource, file: str, settings: SourceSettings, tabs: bool = False, start: Mark | None = None
    ) -> None:
        self._source, self._file, self._settings = source, file, settings
        self._delimiter = "\t" if tabs and settings.delimiter == "auto" else settings.delimiter
        self._columns = list(settings.columns) if settings.columns is not None else None
        self._firsts = _FirstCells()
        if start is not None and start.columns is not None:
            self._delimiter, self._columns = start.delimiter or self._delimiter, list(start.columns)
            self._firsts = _FirstCells(start.rows, start.id_like)

    def marked(self, mark: Mark) -> Mark | None:
        """`mark` with what was learnt of the file; None before the header, and where lines are looked at closely."""
        if self._columns is None or self._firsts.is_doubted(mark.line):
            return None
        return replace(
            mark,
            delimiter=self._delimiter,
            columns=tuple(self._columns),
            rows=min(self._firsts.rows, ENOUGH_ROWS),
            id_like=self._firsts.id_like,
        )

    def __iter__(self) -> Iterator[RawRow | Reject]:
        # The limit of the csv module is 128 KiB by default and raises; ours is on the row and rejects.
        csv.field_size_limit(max(csv.field_size_limit(), self._settings.max_row_characters + 1))
        while (first := self._source.next()) is not None:
            if not first.text.strip() and first.problem is None:
                continue
            if self._delimiter == "auto":
                self._delimiter = _delimiter(first.text)
            record = _record(first, self._source, self._delimiter, self._settings.max_row_characters)
            if self._columns is None and record.cells is not None:
                self._columns = _column_names(record.cells)
                continue
            problem = record.problem or ("no header", "the first row of the file cannot be read as column names")
            returned: list[Line] = []
            if record.cells is None:
                # A row that broke gives back every line but its first: they are rows of their own, or broken ones.
                returned = record.lines[1:]
            elif self._columns is not None and len(record.cells) != len(self._columns):
                problem = ("ragged row", f"expected {len(self._columns)} columns, found {len(record.cells)}")
                if any(_is_whole_row(line.text, self._delimiter, len(self._columns)) for line in record.lines[1:]):
                    returned = record.lines[1:]
            elif self._columns is not None:
                if any("\0" in cell for cell in record.cells):
                    problem = ("NUL byte", "")
                elif self._firsts.fit(record.cells[0], first.number):
                    yield RawRow(first.number, self._file, dict(zip(self._columns, record.cells, strict=True)))
                    continue
                else:
                    problem = ("part of a broken row", "its first cell is not like those of the other rows")
            if returned or record.cells is None:
                self._source.push_back(returned)
                # The broken row may go on behind the line where it broke.
                self._firsts.doubt(record.lines[-1].number + 1)
                del record.lines[1:]
            yield Reject(self._file, first.number, problem[0], record.raw, problem[1])


class _FirstCells:
    """What first cells look like. Lines taken back out of a broken row are believed only if theirs looks the same.

    A text of several lines inside broken quotes may happen to have as many delimiters as a row; it is no ticket.
    """

    def __init__(self, rows: int = 0, id_like: bool = True) -> None:
        self._doubt_until = 0
        self.rows = rows
        self.id_like = id_like

    def is_doubted(self, line: int) -> bool:
        """Whether a row on `line` would be looked at closely."""
        return line <= self._doubt_until

    def doubt(self, line: int) -> None:
        """Look closely at rows up to `line`."""
        self._doubt_until = max(self._doubt_until, line)

    def fit(self, cell: str, line: int) -> bool:
        """Whether a row that begins on `line` with `cell` is to be believed; remembers the cell if so."""
        id_like = _ID_LIKE.match(cell) is not None
        if self.is_doubted(line) and self.rows >= ENOUGH_ROWS and self.id_like and not id_like:
            self.doubt(line + 1)
            return False
        self.rows += 1
        self.id_like = self.id_like and id_like
        return True


def _is_whole_row(text: str, delimiter: str, width: int) -> bool:
    """Whether a line that a ragged row has swallowed is a row by itself: then a stray quote has swallowed it."""
    if width < 2 or text.count('"') % 2:
        return False
    try:
        return len(next(csv.reader([text], delimiter=delimiter, strict=True), [])) == width
    except csv.Error:
        return False


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
