"""What a source yields: rows, and the bad pieces with the place and the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

EXCERPT = 500
"""Characters of a bad piece that are kept for a person to look at."""
UNREADABLE = "unreadable file"
"""The reason of a reject that stands for what could not be read, whatever it holds."""


@dataclass(frozen=True)
class RawRow:
    """One row as the source gives it. `line` is the line it begins on (row number in Parquet), counted from 1."""

    line: int
    file: str
    values: dict[str, Any]
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reject:
    """A bad piece of a source. `reason` is one of a few fixed phrases (they are counted); `detail` explains this one.

    `line` is 0 when the whole file is meant.
    """

    file: str
    line: int
    reason: str
    raw: str = ""
    detail: str = ""
    id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The line of `rejects.jsonl`; lone surrogates are shown as U+FFFD so that the file is valid UTF-8."""
        raw = excerpt(self.raw)
        value: dict[str, Any] = {"file": self.file, "line": self.line, "reason": self.reason}
        if self.detail:
            value["detail"] = printable(self.detail)
        if self.id is not None:
            value["id"] = printable(self.id)
        value["raw"] = raw
        return value


def excerpt(text: str, limit: int = EXCERPT) -> str:
    """The first `limit` characters of `text`, safe to write as UTF-8."""
    return printable(text[:limit])


def printable(text: str) -> str:
    """`text` with lone surrogates (bytes that could not be decoded) replaced by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
