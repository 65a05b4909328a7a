"""Rows of a source as labelled tickets: mapped, cleaned, their labels checked against the schema."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from triagekit.data.mapping import MappedRow, RowMapper, check_columns
from triagekit.data.pieces import RawRow, Reject
from triagekit.data.prepare_settings import PrepareSettings
from triagekit.data.rows import Row
from triagekit.data.shingles import normal_text
from triagekit.data.sources import read_source
from triagekit.data.splits import official_name, parse_time
from triagekit.errors import Problem, ProblemsError, did_you_mean
from triagekit.progress import Progress, SilentProgress
from triagekit.schema.fields import TagsField
from triagekit.schema.normalise import normalise_record
from triagekit.schema.schema import Schema

LOOK_AHEAD = 1_000
"""Rows whose columns are looked at before the work begins, so that a wrong mapping fails at once."""
FALLBACK = "labels outside the schema set to the fallback"


@dataclass(frozen=True, slots=True)
class LabelledTicket:
    """A good row with what later steps need: its place, its normalised text, and its split columns."""

    row: Row
    file: str
    line: int
    normal: str
    labels: tuple[str, ...]
    time: datetime.datetime | None = None
    group: str | None = None
    official: str | None = None


@dataclass
class Collected:
    """Everything read: good tickets, rejects, and what was repaired on the way."""

    tickets: list[LabelledTicket] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    read: int = 0
    rows_by_file: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    unused_columns: list[str] = field(default_factory=list)
    method: str = "random"


def collect(settings: PrepareSettings, schema: Schema, source: Path, progress: Progress | None = None) -> Collected:
    """Read and check a whole source. Raises ProblemsError where the mapping does not fit its columns."""
    label_fields = [item.name for item in schema.label_fields]
    mapper = RowMapper(settings.mapping, schema.field_names, label_fields[0] if len(label_fields) == 1 else None)
    ahead, pieces = look_ahead(read_source(source, settings.reading))
    columns, kinds = columns_seen(mapper, ahead)
    result = Collected()
    if columns:
        optional = [item.name for item in schema.fields if getattr(item, "nullable", False)]
        check_columns(mapper, columns, optional, "mapping")
        _check_split_columns(settings, columns)
        result.unused_columns = _unused(mapper, settings, columns)
    by_files = source.is_dir() and "label_text" in kinds
    result.method = settings.split.resolved_method(files_are_splits=by_files)
    reader = _TicketReader(settings, schema, mapper, result)
    bar = progress or SilentProgress()
    bar.start("reading", None)
    for piece in pieces:
        bar.advance()
        result.read += 1
        result.rows_by_file[piece.file] += 1
        ticket = reader.read(piece) if isinstance(piece, RawRow) else piece
        if isinstance(ticket, Reject):
            result.rejects.append(ticket)
        else:
            result.tickets.append(ticket)
    bar.finish()
    return result


class _TicketReader:
    """Turns raw rows into labelled tickets, remembering the ids it has seen."""

    def __init__(self, settings: PrepareSettings, schema: Schema, mapper: RowMapper, result: Collected) -> None:
        self._settings = settings
        self._schema = schema
        self._mapper = mapper
        self._result = result
        self._seen: dict[str, str] = {}

    def read(self, raw: RawRow) -> LabelledTicket | Reject:
        mapped = self._mapper.apply(raw)
        if isinstance(mapped, Reject):
            return mapped
        identity = mapped.id or f"{raw.file}:{raw.line}"
        record, problem = self._record(mapped)
        if problem is not None:
            return Reject(raw.file, raw.line, problem[0], mapped.text, problem[1], identity)
        if identity in self._seen:
            detail = f"first at {self._seen[identity]}"
            return Reject(raw.file, raw.line, "duplicate id", mapped.text, detail, identity)
        try:
            time, group, official = self._split_columns(raw, mapped)
        except ValueError as error:
            reason = f"no {self._result.method} for the split"
            return Reject(raw.file, raw.line, reason, mapped.text, str(error), identity)
        self._seen[identity] = f"{raw.file}:{raw.line}"
        self._result.repairs.update(mapped.repairs)
        row = Row(identity, mapped.text, record, mapped.slices)
        labels = tuple(label_key(record[item.name]) for item in self._schema.label_fields)
        return LabelledTicket(row, raw.file, raw.line, normal_text(mapped.text), labels, time, group, official)

    def _record(self, mapped: MappedRow) -> tuple[dict[str, Any], tuple[str, str] | None]:
        for name in self._settings.mapping.tags:
            # Rules stand in the order of their weight; what is beyond the schema's limit is not said.
            kind = self._schema.field(name)
            if isinstance(kind, TagsField):
                mapped.labels[name] = mapped.labels[name][: kind.max_items]
        record, problems = normalise_record(self._schema, mapped.labels)
        fallback = self._settings.mapping.fallback
        if any(problem.field in fallback for problem in problems):
            replaced = {problem.field: fallback[problem.field] for problem in problems if problem.field in fallback}
            record, problems = normalise_record(self._schema, {**mapped.labels, **replaced})
            if not problems:
                self._result.repairs[FALLBACK] += 1
        if not problems:
            return record, None
        missing = all(problem.value is None or problem.value == "" for problem in problems)
        details = "; ".join(f"{problem.field}: {problem.message}" for problem in problems)
        return record, ("missing label" if missing else "label outside the schema", details)

    def _split_columns(self, raw: RawRow, mapped: MappedRow) -> tuple[datetime.datetime | None, str | None, str | None]:
        split = self._settings.split
        if self._result.method == "time":
            value = mapped.values.get(split.time or "")
            try:
                return parse_time(value, split.time_format), None, None
            except ValueError as error:
                raise ValueError(f"column '{split.time}': {error}; set split.time_format") from None
        if self._result.method == "group":
            group = str(mapped.values.get(split.group or "") or "").strip()
            if not group:
                raise ValueError(f"column '{split.group}' is empty")
            return None, group, None
        if self._result.method == "official":
            cell = raw.file if split.official is None else str(mapped.values.get(split.official) or "")
            name = official_name(cell)
            if name is None:
                raise ValueError(f"'{cell}' is neither train, val nor test")
            return None, None, name
        return None, None, None


def label_key(value: Any) -> str:
    """A label value as text, for counting and comparing; "null" where absent."""
    if value is None:
        return "null"
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def look_ahead(pieces: Iterator[RawRow | Reject]) -> tuple[list[RawRow], Iterable[RawRow | Reject]]:
    """The rows among the first pieces, and an iterator over all pieces, those included."""
    first: list[RawRow | Reject] = []
    for piece in pieces:
        first.append(piece)
        if len(first) >= LOOK_AHEAD:
            break
    return [piece for piece in first if isinstance(piece, RawRow)], chain(first, pieces)


def columns_seen(mapper: RowMapper, rows: Iterable[RawRow]) -> tuple[list[str], set[str]]:
    """Column names of some rows, in first-seen order, after known formats were flattened; and those formats."""
    columns: dict[str, None] = {}
    kinds: set[str] = set()
    for row in rows:
        try:
            values, kind = mapper.flat(row)
        except ValueError:
            continue
        columns.update(dict.fromkeys(str(name) for name in values))
        if kind is not None:
            kinds.add(kind)
    return list(columns), kinds


def _check_split_columns(settings: PrepareSettings, columns: list[str]) -> None:
    named = {name: getattr(settings.split, name) for name in ("time", "group", "official")}
    problems = [
        Problem(f"split.{name}", f"there is no column '{column}'.", did_you_mean(column, columns))
        for name, column in named.items()
        if column is not None and column not in columns
    ]
    if problems:
        raise ProblemsError("The split does not fit the source:", problems)


def _unused(mapper: RowMapper, settings: PrepareSettings, columns: list[str]) -> list[str]:
    mapping, split = mapper.mapping, settings.split
    used = {column for _, column in mapping.columns()} | {split.time, split.group, split.official, "text"}
    used |= {"id"} if mapping.id is None else set()
    plain = {name.replace("_", "") for name in mapper.fields if name not in mapping.labels}
    return [
        column
        for column in columns
        if column not in used and "".join(c for c in column.casefold() if c.isalnum()) not in plain
    ]
