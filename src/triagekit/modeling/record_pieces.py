"""Every piece of text that a record can be made of: how long it can get, and which tokens the schema can emit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from triagekit.schema import (
    DependentEnumField,
    Field,
    Schema,
    TagsField,
    TextField,
    allowed_values,
    record_segments,
)
from triagekit.schema.compact import NULL, SEPARATOR, TAG_END, TEXT_OPENING
from triagekit.schema.fields import is_nullable

if TYPE_CHECKING:
    from triagekit.modeling.segments import SegmentTokenizer

CHARACTERS_PER_TOKEN = 3
"""Below the 3.5-5 of English and Spanish under common vocabularies: rather some tokens too many kept free."""


def sample_records(schema: Schema) -> list[dict[str, Any]]:
    """Valid records that between them show every skeleton: each field filled in one of them, and all null in the last.

    No single record need be able to fill every field: two optional fields may ask for different values of one parent.
    """
    filled = [_record(schema, _values_towards(schema, field)) for field in schema.fields]
    return [*filled, _record(schema, {}, leave_out=True)]


def _record(schema: Schema, wanted: Mapping[str, str], leave_out: bool = False) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for field in schema.fields:
        if leave_out and is_nullable(field):
            record[field.name] = None
        elif isinstance(field, TextField):
            record[field.name] = "a"
        elif isinstance(field, TagsField):
            record[field.name] = [] if leave_out else list(field.values[:1])
        else:
            values = allowed_values(schema, field.name, record)
            record[field.name] = wanted.get(field.name, values[0] if values else None)
    return record


def _values_towards(schema: Schema, field: Field) -> dict[str, str]:
    """Values of the fields that `field` depends on, and of itself, with which it is not null."""
    wanted: dict[str, str] = {}
    while isinstance(field, DependentEnumField):
        value = wanted.setdefault(field.name, field.values[0])
        parent = field.parents_of[value][0]
        wanted[field.parent] = parent
        field = schema.field(field.parent)
    return wanted


def _skeletons(schema: Schema) -> list[list[str]]:
    """For each sample record its skeleton texts: one before each field, and the closing one."""
    records = sample_records(schema)
    return [[part.text for part in record_segments(schema, record) if part.kind == "skeleton"] for record in records]


def skeleton_texts(schema: Schema) -> list[str]:
    """Every skeleton text that a record of this schema can contain, first-seen order."""
    return list(dict.fromkeys(text for record in _skeletons(schema) for text in record))


def mark_texts(schema: Schema, field: Field) -> list[str]:
    """Every value-segment text of a field that is no value: null, what opens text that may be null, what tags stand in."""
    compact = schema.format == "compact"
    if isinstance(field, TagsField):
        return [TAG_END, SEPARATOR] if compact else ["[]", '["', '","', '"]']
    if not is_nullable(field):
        return []
    if not compact:
        return ["null", '"']
    return [NULL, TEXT_OPENING] if isinstance(field, TextField) else [NULL]


def _tag_marks(schema: Schema, tags: int) -> list[str]:
    """What stands around and between as many tags."""
    if schema.format == "compact":
        return [TAG_END] * tags + [SEPARATOR]
    return ['["', *['","'] * max(0, tags - 1), '"]']


def record_reserve(segments: SegmentTokenizer) -> int:
    """Tokens of the longest record: exact for skeletons and fixed values, max_length / 3 for text fields."""
    schema = segments.schema

    def length(text: str) -> int:
        return len(segments.encode_piece(text))

    total = sum(max(length(text) for text in slot) for slot in zip(*_skeletons(schema), strict=True))
    for field in schema.fields:
        marks = mark_texts(schema, field)
        if is_nullable(field):
            total += max(length(text) for text in marks)
        if isinstance(field, TextField):
            total += math.ceil(field.max_length / CHARACTERS_PER_TOKEN)
            continue
        longest = sorted((len(segments.value_ids(field.name, value)) for value in field.values), reverse=True)
        if isinstance(field, TagsField):
            longest = longest[: field.max_items]
            total += sum(longest) + sum(length(text) for text in _tag_marks(schema, len(longest)))
        else:
            total += longest[0]
    return total


def output_token_ids(segments: SegmentTokenizer) -> list[int]:
    """Ids, ascending, of every token that skeletons, fixed values and the end of turn are made of.

    The tokens of free text are not among them (that would be the whole vocabulary): under `head: output_tokens` they
    keep the base's own head rows.
    """
    schema = segments.schema
    texts = [*skeleton_texts(schema), *(text for field in schema.fields for text in mark_texts(schema, field))]
    found = {token for text in texts for token in segments.encode_piece(text)} | set(segments.end_ids)
    for field in schema.label_fields:
        found.update(token for value in field.values for token in segments.value_ids(field.name, value))
    return sorted(found)
