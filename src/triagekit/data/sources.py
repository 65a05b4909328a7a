"""Rows of a file or folder, streamed. Whatever is broken becomes a Reject with its place; good rows always come out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from triagekit.data.byte_streams import BrokenSource, byte_chunks
from triagekit.data.csv_reader import CsvRows
from triagekit.data.encodings import (
    SURROGATES,
    detect_encoding,
    is_single_byte,
    mend_surrogates,
    split_sample,
    text_chunks,
)
from triagekit.data.json_reader import JsonStream, read_jsonl
from triagekit.data.marks import Mark, byte_counter
from triagekit.data.parquet_reader import ColumnChoice, KeptParquet, read_parquet
from triagekit.data.pieces import UNREADABLE, RawRow, Reject
from triagekit.data.source_settings import SourceSettings
from triagekit.data.text_lines import LineSource, text_lines
from triagekit.errors import TriageError, nearest
from triagekit.files.remote import AnyPath, place_below

__all__ = ["RawRow", "Reject", "SourceSettings", "file_name", "read_source", "source_files"]

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
}
COMPRESSIONS = (".gz", ".zst")
STRAY_BYTES = "stray bytes read as Windows-1252"


def source_files(path: AnyPath) -> list[AnyPath]:
    """The files of a source in a fixed order: the file itself, or all files below a folder but hidden ones.

    Raises TriageError where nothing is there.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        match = nearest(path.name, siblings)
        hint = f" Did you mean '{path.parent / match}'?" if match else ""
        raise TriageError(f"No file or folder at {path}.{hint}")
    files = [item for item in path.rglob("*") if item.is_file() and not _hidden(place_below(item, path))]
    if not files:
        raise TriageError(f"The folder {path} holds no files.")
    return sorted(files, key=lambda item: place_below(item, path).as_posix())


def file_name(path: AnyPath, root: AnyPath) -> str:
    """How a file of the source `root` is named in rows and rejects: free of the place where the source lies."""
    return path.name if path == root else place_below(path, root).as_posix()


def read_source(
    path: AnyPath, settings: SourceSettings | None = None, columns: ColumnChoice | None = None
) -> Iterator[RawRow | Reject]:
    """Rows and rejects of a file or of every file of a folder, in a fixed order, with flat memory.

    CSV, TSV, JSON Lines, JSON arrays, Parquet and plain lines of text, each also gzip or zstd. A bad piece never
    raises; raises TriageError only where there is nothing to read or a library is missing. `columns` is for Parquet, which
    holds columns apart; rows of the other formats hold all.
    """
    chosen = settings or SourceSettings()
    for file in source_files(path):
        yield from SourceFile(file, file_name(file, path), chosen, columns=columns)


class SourceFile:
    """One file, called `name` in its rows and rejects. Iterated once, from its beginning or from a mark of it.

    `marked` says whether marks will be asked for; counting bytes takes a little time. `columns` and `kept` are read_parquet's.
    """

    def __init__(
        self,
        path: AnyPath,
        name: str,
        settings: SourceSettings,
        start: Mark | None = None,
        marked: bool = False,
        columns: ColumnChoice | None = None,
        kept: KeptParquet | None = None,
    ) -> None:
        self._path, self._name, self._settings, self._start, self._marked = path, name, settings, start, marked
        self._columns, self._kept = columns, kept
        self._mark: Callable[[], Mark | None] = lambda: None

    def mark(self) -> Mark | None:
        """From where the next piece would be read, with all that is needed to read it and what follows as now; None
        where no such place is known just here."""
        return self._mark() if self._marked else None

    def __iter__(self) -> Iterator[RawRow | Reject]:
        path, name, settings, start = self._path, self._name, self._settings, self._start
        try:
            kind = settings.format if settings.format != "auto" else format_of(path)
            fallback: str | None = None
            if kind == "parquet":
                pieces: Iterable[RawRow | Reject] = self._parquet()
            elif kind == "unknown":
                known = ", ".join(FORMATS)
                yield Reject(name, 0, "unknown kind of file", "", f"known endings: {known}, each also .gz or .zst")
                return
            else:
                look = _looked_at(path, kind, settings) if start is None else _Look.at(start)
                fallback = look.fallback
                pieces = self._text(look, kind)
            for piece in pieces:
                yield _decoded(piece, fallback) if isinstance(piece, RawRow) else piece
        except OSError as error:
            yield Reject(name, 0, UNREADABLE, "", str(error.strerror or error))

    def _parquet(self) -> Iterator[RawRow | Reject]:
        next_row = begin = self._start.line if self._start else 1
        self._mark = lambda: Mark(next_row)
        for piece in read_parquet(self._path, self._name, begin, self._columns, self._kept):
            next_row += 1
            yield piece

    def _text(self, look: _Look, kind: str) -> Iterable[RawRow | Reject]:
        line, offset = (self._start.line, self._start.offset) if self._start else (1, look.skip)
        measure = byte_counter(look.encoding) if self._marked else None
        chunks = look.chunks if look.chunks is not None else byte_chunks(self._path, offset)
        text = text_chunks(chunks, look.encoding, look.skip)
        limit = self._settings.max_row_characters

        def mark(place: tuple[int, int] | None, depth: int | None = None) -> Mark | None:
            if place is None or measure is None:
                return None
            return Mark(*place, look.encoding, look.fallback, look.carriage, depth)

        if look.depth is not None:
            stream = JsonStream(text, self._name, limit, line, offset, look.depth, measure)
            self._mark = lambda: mark(stream.place()[:2], stream.place()[2])
            return stream
        if look.carriage:
            text = (chunk.replace("\r", "\n") for chunk in text)
        source = LineSource(text_lines(text, limit, line, offset, measure), line, offset)
        self._mark = lambda: mark(source.place())
        if kind in ("json", "jsonl"):
            return read_jsonl(source, self._name)
        if kind == "text":
            return _read_plain(source, self._name)
        rows = CsvRows(source, self._name, self._settings, kind == "tsv", self._start)

        def csv_mark() -> Mark | None:
            here = mark(source.place())
            return None if here is None else rows.marked(here)

        self._mark = csv_mark
        return rows


def format_of(path: AnyPath) -> str:
    """Format by the ending before any .gz or .zst; by content where the ending says nothing; else 'unknown'."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    if suffixes and suffixes[-1] in FORMATS:
        return FORMATS[suffixes[-1]]
    try:
        head = next(byte_chunks(path), b"")
    except BrokenSource:
        return "unknown"
    if head.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" else "unknown"


@dataclass(frozen=True)
class _Look:
    """What is known of a text file before its pieces are read. `depth` None: pieces stand on lines."""

    encoding: str
    fallback: str | None
    carriage: bool
    depth: int | None
    skip: int = 0
    chunks: Iterator[bytes] | None = None

    @staticmethod
    def at(mark: Mark) -> _Look:
        """As it was found before the mark was made."""
        return _Look(mark.encoding, mark.fallback, mark.carriage, mark.depth)


def _looked_at(path: AnyPath, kind: str, settings: SourceSettings) -> _Look:
    """Encoding and arrangement of a text file by its first bytes."""
    sample, chunks = split_sample(byte_chunks(path))
    encoding, skip = detect_encoding(sample)
    fallback: str | None = None
    if settings.encoding != "auto" and not skip:
        encoding = settings.encoding
    elif encoding != "utf-8" and is_single_byte(encoding):
        # Read as UTF-8 where possible: a file put together from several may hold both.
        encoding, fallback = "utf-8", encoding
    head = sample[skip : skip + 65_536].decode(encoding, "replace")
    stream = kind in ("json", "jsonl") and _is_stream(head, kind)
    carriage = not stream and "\r" in head and "\n" not in head and kind != "json"
    return _Look(encoding, fallback, carriage, 0 if stream else None, skip, chunks)


def _is_stream(head: str, kind: str) -> bool:
    """Whether the JSON is an array or spread over lines; one object a line is read faster and mends better."""
    start = head.lstrip()
    if re.match(r"\[\s*(\{|\]|$)", start):
        return True
    if kind == "jsonl":
        return False
    if start.startswith("["):
        return True
    first = start.split("\n", 1)[0].rstrip()
    # `{` alone on the first line, or a line that stops inside the object: pretty-printed JSON.
    return start.startswith("{") and (first.endswith(("{", ",", "[")) or not first.endswith("}")) and "\n" in start


def _read_plain(source: LineSource, name: str) -> Iterator[RawRow | Reject]:
    while (line := source.next()) is not None:
        if line.problem is not None:
            yield Reject(name, line.number, line.problem[0], line.text, line.problem[1])
        elif "\0" in line.text:
            yield Reject(name, line.number, "NUL byte", line.text)
        elif line.text.strip():
            yield RawRow(line.number, name, {"text": line.text.rstrip("\r\n")})


def _decoded(row: RawRow, fallback: str | None) -> RawRow | Reject:
    """The row with the bytes that are not UTF-8 read in `fallback`, or as stray bytes; a Reject where that fails."""
    mended: dict[str, Any] = {}
    changed = False
    for key, value in row.values.items():
        new_key, new_value = _mend(key, fallback), _mend(value, fallback)
        if new_key is None or (new_value is None and value is not None):
            return Reject(row.file, row.line, "undecodable bytes", str(value), f"in column '{key}'")
        changed = changed or new_key is not key or new_value is not value
        mended[new_key] = new_value
    if not changed:
        return row
    return RawRow(row.line, row.file, mended, row.repairs if fallback else (*row.repairs, STRAY_BYTES))


def _mend(value: Any, fallback: str | None) -> Any:
    """`value` with the lone surrogates in its texts mended; itself where there are none; None where impossible."""
    if isinstance(value, str):
        return value if value.isascii() or SURROGATES.search(value) is None else mend_surrogates(value, fallback)
    if isinstance(value, list):
        items = [_mend(item, fallback) for item in value]
        if any(new is None and old is not None for new, old in zip(items, value, strict=True)):
            return None
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        inner = {key: _mend(item, fallback) for key, item in value.items()}
        if any(inner[key] is None and item is not None for key, item in value.items()):
            return None
        return inner if any(inner[key] is not item for key, item in value.items()) else value
    return value


def _hidden(relative: PurePosixPath) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)
