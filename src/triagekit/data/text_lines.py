"""Lines of text chunks with their numbers; over-long lines and broken ends become marked lines, never exceptions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from triagekit.data.byte_streams import BrokenSource


@dataclass(frozen=True, slots=True)
class Line:
    """One physical line. `text` keeps its line end; `problem` (reason, detail) marks a line that cannot be used."""

    number: int
    text: str
    problem: tuple[str, str] | None = None


def text_lines(chunks: Iterable[str], limit: int) -> Iterator[Line]:
    """Split at "\\n" only (other Unicode line ends stand inside texts). Lines beyond `limit` characters are marked."""
    number = 1
    pending: list[str] = []
    size = 0
    try:
        for chunk in chunks:
            pieces = chunk.split("\n")
            for piece in pieces[:-1]:
                yield _line(number, pending, size, piece + "\n", limit)
                pending, size = [], 0
                number += 1
            last = pieces[-1]
            if last:
                # Of an over-long line only the beginning is kept: memory stays bounded whatever the file holds.
                if size <= limit:
                    pending.append(last)
                size += len(last)
    except BrokenSource as error:
        yield Line(number, "".join(pending)[:limit], (error.reason, error.detail))
        return
    if size:
        yield _line(number, pending, size, "", limit)


def _line(number: int, pending: list[str], size: int, end: str, limit: int) -> Line:
    total = size + len(end)
    if total > limit + 1:
        start = "".join([*pending, end])[:1000]
        return Line(number, start, ("row too long", f"a line of {total:,} characters; the limit is {limit:,}"))
    return Line(number, "".join([*pending, end]) if pending else end)


class LineSource:
    """Lines with a look back: lines that a broken row has swallowed can be pushed back and read again."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._returned: list[Line] = []

    def next(self) -> Line | None:
        """The next line, or None at the end."""
        if self._returned:
            return self._returned.pop()
        return next(self._lines, None)

    def push_back(self, lines: list[Line]) -> None:
        """Give lines back, in their order."""
        self._returned.extend(reversed(lines))
