"""Lines of text chunks with their numbers; over-long lines and broken ends become marked lines, never exceptions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from triagekit.data.byte_streams import BrokenSource


@dataclass(frozen=True, slots=True)
class Line:
    """One physical line. `text` keeps its line end; `problem` (reason, detail) marks a line that cannot be used."""

    number: int
    text: str
    problem: tuple[str, str] | None = None
    end: int = 0
    """First byte behind it in the decompressed file, where bytes are counted."""


def text_lines(
    chunks: Iterable[str], limit: int, number: int = 1, end: int = 0, measure: Callable[[str], int] | None = None
) -> Iterator[Line]:
    """Split at "\\n" only (other Unicode line ends stand inside texts). Lines beyond `limit` characters are marked.

    The first line has `number` and begins at byte `end`; `measure` says of how many bytes a text was.
    """
    size_of = measure or (lambda _: 0)
    pending: list[str] = []
    size = 0
    try:
        for chunk in chunks:
            pieces = chunk.split("\n")
            for piece in pieces[:-1]:
                end += size_of(piece + "\n")
                yield _line(number, pending, size, piece + "\n", limit, end)
                pending, size = [], 0
                number += 1
            last = pieces[-1]
            if last:
                # Of an over-long line only the beginning is kept: memory stays bounded whatever the file holds.
                if size <= limit:
                    pending.append(last)
                size += len(last)
                end += size_of(last)
    except BrokenSource as error:
        yield Line(number, "".join(pending)[:limit], (error.reason, error.detail))
        return
    if size:
        yield _line(number, pending, size, "", limit, end)


def _line(number: int, pending: list[str], size: int, rest: str, limit: int, end: int) -> Line:
    total = size + len(rest)
    if total > limit + 1:
        start = "".join([*pending, rest])[:1000]
        return Line(number, start, ("row too long", f"a line of {total:,} characters; the limit is {limit:,}"), end)
    return Line(number, "".join([*pending, rest]) if pending else rest, None, end)


class LineSource:
    """Lines with a look back: lines that a broken row has swallowed can be pushed back and read again."""

    def __init__(self, lines: Iterator[Line], number: int = 1, offset: int = 0) -> None:
        self._lines = lines
        self._returned: list[Line] = []
        self._place = number, offset

    def place(self) -> tuple[int, int] | None:
        """Number and first byte of the next line; None while lines that were given back wait."""
        return None if self._returned else self._place

    def next(self) -> Line | None:
        """The next line, or None at the end."""
        line = self._returned.pop() if self._returned else next(self._lines, None)
        if line is not None:
            self._place = line.number + 1, line.end
        return line

    def push_back(self, lines: list[Line]) -> None:
        """Give lines back, in their order."""
        self._returned.extend(reversed(lines))
