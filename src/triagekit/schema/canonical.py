"""Canonical JSON: one exact rendering of a record, and the segments that training and decoding tokenise it by."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from triagekit.schema.fields import TagsField, TextField
from triagekit.schema.schema import Schema

_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Segment:
    """A piece of a record's text. `field` names the field of a value segment."""

    kind: Literal["skeleton", "value"]
    text: str
    field: str | None = None


def canonical_json(schema: Schema, record: Mapping[str, Any]) -> str:
    """The record as compact JSON, keys in schema order. The record must be valid."""
    return json.dumps({name: record[name] for name in schema.field_names}, ensure_ascii=False, separators=(",", ":"))


def record_segments(schema: Schema, record: Mapping[str, Any]) -> list[Segment]:
    """Segments whose joined texts are the canonical JSON of a valid record.

    Values are JSON-escaped content; quotes belong to the skeleton. A nullable field has a value segment `null` or `"`
    in front; an array has value segments `[]`, or `["` … `","` … `"]` around its tags.
    """
    segments: list[Segment] = []
    skeleton = "{"

    def value(text: str) -> None:
        nonlocal skeleton
        if skeleton:
            segments.append(Segment("skeleton", skeleton))
            skeleton = ""
        segments.append(Segment("value", text, field.name))

    for number, field in enumerate(schema.fields):
        given = record[field.name]
        skeleton += ("," if number else "") + json.dumps(field.name, ensure_ascii=False) + ":"
        if isinstance(field, TagsField):
            value('["' if given else "[]")
            for position, tag in enumerate(given):
                if position:
                    value('","')
                value(_escaped(tag))
            if given:
                value('"]')
            continue
        if given is None:
            value("null")
            continue
        if field.nullable:
            value('"')
        else:
            skeleton += '"'
        value(_escaped(given))
        skeleton += '"'
    segments.append(Segment("skeleton", skeleton + "}"))
    return segments


def normalise_text(text: str, max_length: int) -> str:
    """Text as it stands in a record: blank and control characters to single spaces, stripped, cut at `max_length`."""
    return _SURROGATE.sub("\ufffd", _BLANK.sub(" ", text)).strip()[:max_length].rstrip()


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
