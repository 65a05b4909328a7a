"""The compact format: a record's values alone, in the schema's order, each behind the last one's line break.

A line break and a tab cannot stand in any value, so that nothing is escaped and nothing needs quotes:
- null is a tab; the text of a field that may be null stands behind a double quote, which tells it from null;
- tags are each followed by a tab;
- behind every value stands a line break.

A model that has learnt a schema needs no more to say what a record is; keys and punctuation, most of the tokens of its
JSON, are made from the schema afterwards. Values of labels may be written short: see `shortest_beginnings`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from triagekit.schema.fields import DependentEnumField, Field, TagsField, TextField, is_nullable
from triagekit.schema.schema import Schema
from triagekit.schema.segment import Segment

SEPARATOR = "\n"
NULL = "\t"
TEXT_OPENING = '"'
"""Before the text of a field that may be null."""
TAG_END = "\t"


def compact_segments(schema: Schema, record: Mapping[str, Any]) -> list[Segment]:
    """The segments of a valid record. The separator is skeleton, but behind tags: there it says that no more follow."""
    segments: list[Segment] = []
    for a_field in schema.fields:
        name, value = a_field.name, record[a_field.name]
        if isinstance(a_field, TagsField):
            for tag in value:
                segments += [Segment("value", tag, name), Segment("value", TAG_END, name)]
            segments.append(Segment("value", SEPARATOR, name))
            continue
        if value is None:
            segments.append(Segment("value", NULL, name))
        else:
            if isinstance(a_field, TextField) and a_field.nullable:
                segments.append(Segment("value", TEXT_OPENING, name))
            segments.append(Segment("value", value, name))
        segments.append(Segment("skeleton", SEPARATOR))
    return segments


def shortest_beginnings(values: Sequence[str], beginnings: Callable[[str], Iterable[str]]) -> dict[str, str]:
    """For each value the first of its `beginnings` (ascending length, the last one whole) that no other value has.

    A value that is itself the beginning of another stays whole; the separator behind it ends it.
    """
    ordered = sorted(values)
    short: dict[str, str] = {}
    for value in values:
        place = bisect_right(ordered, value)
        neighbours = [*ordered[max(0, place - 2) : place - 1], *ordered[place : place + 1]]
        short[value] = next(
            (
                beginning
                for beginning in beginnings(value)
                if beginning == value or not any(other.startswith(beginning) for other in neighbours)
            ),
            value,
        )
    return short


def read_compact(schema: Schema, text: str) -> tuple[dict[str, Any], tuple[str, ...]] | None:
    """The record that stands in `text`, as it stands there (not validated), and what was repaired; None if none does."""
    lines = text.split(SEPARATOR)
    repairs: list[str] = []
    if lines[-1] == "":
        lines.pop()
    if len(lines) < len(schema.fields):
        return None
    if len(lines) > len(schema.fields):
        repairs.append("removed lines behind the record")
    record: dict[str, Any] = {}
    for a_field, line in zip(schema.fields, lines, strict=False):
        record[a_field.name] = _read_value(a_field, line, record)
    return record, tuple(repairs)


def _read_value(a_field: Field, line: str, record: Mapping[str, Any]) -> Any:
    if isinstance(a_field, TagsField):
        return [_whole(tag, a_field.values) for tag in line.removesuffix(TAG_END).split(TAG_END)] if line else []
    if is_nullable(a_field) and line == NULL:
        return None
    if isinstance(a_field, TextField):
        return line.removeprefix(TEXT_OPENING) if a_field.nullable else line
    if isinstance(a_field, DependentEnumField):
        parent = record.get(a_field.parent)
        allowed = a_field.values_by_parent.get(parent, ()) if isinstance(parent, str) else ()
        return _whole(line, allowed or a_field.values)
    return _whole(line, a_field.values)


def _whole(written: str, values: Sequence[str]) -> str:
    """The value that `written` is, or is the beginning of; `written` itself where that is none, or more than one."""
    if written in values:
        return written
    possible = [value for value in values if written and value.startswith(written)]
    return possible[0] if len(possible) == 1 else written
