"""JSON Lines, and JSON that is one array (or objects one after another) read piece by piece."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from triagekit.data.byte_streams import BrokenSource
from triagekit.data.pieces import EXCERPT, RawRow, Reject
from triagekit.data.text_lines import LineSource

_SPACE = re.compile(r"[\s,]*")
_NEXT_OBJECT = re.compile(r"\n\s*\{|\}\s*,\s*(?=\{)|\}\s*(?=\])")


def _no_number(_: str) -> None:
    # NaN and Infinity are not JSON; pandas writes them for empty cells.
    return None


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def row_or_reject(value: Any, file: str, line: int, raw: str) -> RawRow | Reject:
    """A JSON value as a row: an object without NUL characters."""
    if not isinstance(value, dict):
        return Reject(file, line, "not a JSON object", raw, f"found: {_kind(value)}")
    if "\\u0000" in raw and _has_nul(value):
        return Reject(file, line, "NUL byte", raw)
    return RawRow(line, file, value)


def read_jsonl(source: LineSource, file: str) -> Iterator[RawRow | Reject]:
    """One JSON object a line; blank lines are no rows."""
    while (line := source.next()) is not None:
        if line.problem is not None:
            yield Reject(file, line.number, line.problem[0], line.text, line.problem[1])
            continue
        text = line.text.strip()
        if not text:
            continue
        try:
            value = _DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            reason = "NUL byte" if "\0" in text else "broken JSON"
            yield Reject(file, line.number, reason, text, _message(error))
            continue
        yield row_or_reject(value, file, line.number, text)


class JsonStream:
    """Objects of a JSON text that need not stand on lines of their own; arrays at the top are opened.

    Holds at most `limit` characters of one object in memory.
    """

    def __init__(
        self,
        chunks: Iterator[str],
        file: str,
        limit: int,
        line: int = 1,
        offset: int = 0,
        depth: int = 0,
        measure: Callable[[str], int] | None = None,
    ) -> None:
        """`line`, `offset` and `depth` are those of a mark of the same file, where the chunks begin."""
        self._chunks = chunks
        self._file = file
        self._limit = limit
        self._buffer = ""
        self._position = 0
        self._line = line
        self._offset = offset
        self._measure = measure
        self._ended = False
        self._broken: BrokenSource | None = None
        self._depth = depth

    def place(self) -> tuple[int, int, int]:
        """Line, first byte and depth of what comes next."""
        return self._line, self._offset, self._depth

    def __iter__(self) -> Iterator[RawRow | Reject]:
        while self._skip_space():
            head = self._buffer[self._position]
            if head == "[" and self._depth == 0:
                self._depth = 1
                self._advance(self._position + 1)
            elif head == "]" and self._depth == 1:
                self._depth = 0
                self._advance(self._position + 1)
            else:
                yield self._element()
        if self._broken is not None:
            yield Reject(self._file, self._line, self._broken.reason, "", self._broken.detail)
        elif self._depth == 1:
            yield Reject(self._file, self._line, "truncated JSON", "", "the array has no closing bracket")

    def _element(self) -> RawRow | Reject:
        line = self._line
        while True:
            start = self._position
            try:
                value, end = _DECODER.raw_decode(self._buffer, start)
            except (ValueError, RecursionError) as error:
                at = error.pos if isinstance(error, json.JSONDecodeError) else start
                # A string or object that runs into the end of the buffer may only lack its rest.
                unfinished = at >= len(self._buffer) - 16 or "Unterminated string" in str(error)
                if unfinished and len(self._buffer) - start <= self._limit and self._read_more():
                    continue
                return self._broken_element(line, error)
            at_end = end == len(self._buffer)
            # A number or word at the end of the buffer may go on in the next chunk.
            if at_end and not isinstance(value, dict | list | str) and self._read_more():
                continue
            raw = self._buffer[start:end]
            self._advance(end)
            return row_or_reject(value, self._file, line, raw if "\\u0000" in raw else raw[:EXCERPT])

    def _broken_element(self, line: int, error: Exception) -> Reject:
        """Skip to what looks like the next object, so that one broken object costs only itself.

        The search begins in the broken object, not behind the error: an open quote shows only in a later object. A
        part of the broken object may so come out as a row of its own; it lacks the text and is rejected later.
        """
        start = self._position
        raw = self._buffer[start : start + EXCERPT]
        search_from = start + 1
        while (match := _NEXT_OBJECT.search(self._buffer, search_from)) is None:
            self._advance(max(start + 1, len(self._buffer) - 64))
            if not self._read_more():
                self._advance(len(self._buffer))
                self._depth = 0
                break
            start = search_from = self._position
        else:
            self._advance(match.end() - 1 if match.group().endswith("{") else match.end())
        reason = "NUL byte" if "\0" in raw else "broken JSON"
        if self._broken is not None and not self._buffer[self._position :]:
            reason = self._broken.reason
            self._broken, self._depth = None, 0
        return Reject(self._file, line, reason, raw, _message(error))

    def _skip_space(self) -> bool:
        """Move to the next character that is neither space nor comma. False at the end."""
        while True:
            match = _SPACE.match(self._buffer, self._position)
            end = match.end() if match else self._position
            self._advance(end)
            if self._position < len(self._buffer):
                return True
            if not self._read_more():
                return False

    def _advance(self, to: int) -> None:
        self._line += self._buffer.count("\n", self._position, to)
        if self._measure is not None:
            self._offset += self._measure(self._buffer[self._position : to])
        self._position = to

    def _read_more(self) -> bool:
        if self._ended:
            return False
        # Twice as much each time: an object is decoded again for each reading, so readings must be few.
        wanted = max(1 << 16, len(self._buffer) - self._position)
        parts = [self._buffer[self._position :]]
        self._position = 0
        size = 0
        try:
            while size < wanted:
                chunk = next(self._chunks, None)
                if chunk is None:
                    self._ended = True
                    break
                parts.append(chunk)
                size += len(chunk)
        except BrokenSource as error:
            self._broken, self._ended = error, True
        self._buffer = "".join(parts)
        return size > 0


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(inner) for key, inner in value.items())
    return isinstance(value, list) and any(_has_nul(inner) for inner in value)


def _kind(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _message(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
