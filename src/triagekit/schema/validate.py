"""Every problem of a record, each with field, value and nearest valid value; and the verdict that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from triagekit.errors import nearest
from triagekit.schema.canonical import normalise_text
from triagekit.schema.fields import DependentEnumField, Field, TagsField, TextField, allowed_values
from triagekit.schema.schema import Schema

Verdict = Literal["auto", "review", "error"]
"""auto: valid, can be applied; review: a person should look; error: there is no record."""


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one field of one record."""

    field: str
    value: Any
    message: str
    nearest: str | None = None

    def __str__(self) -> str:
        hint = f" Nearest: '{self.nearest}'." if self.nearest else ""
        return f"{self.field}: {self.message}{hint}"


def validate_record(schema: Schema, record: Any) -> list[FieldProblem]:
    """All problems; an empty list means that the record is exactly what the schema asks for."""
    if not isinstance(record, Mapping):
        return [FieldProblem("", record, f"a record is an object, not a {type(record).__name__}.")]
    problems: list[FieldProblem] = []
    for field in schema.fields:
        if field.name not in record:
            problems.append(FieldProblem(field.name, None, "is missing."))
        else:
            problems.extend(_field_problems(schema, field, record))
    for name, value in record.items():
        if name not in schema.field_names:
            match = nearest(name, schema.field_names)
            problems.append(FieldProblem(str(name), value, "is not a field of this schema.", match))
    return problems


def verdict(problems: Sequence[FieldProblem], parsed: bool = True) -> Verdict:
    """error: nothing could be parsed; review: some problem; auto: none."""
    if not parsed:
        return "error"
    return "review" if problems else "auto"


def _field_problems(schema: Schema, field: Field, record: Mapping[str, Any]) -> list[FieldProblem]:
    value = record[field.name]
    if isinstance(field, TagsField):
        return _tags_problems(field, value)
    if value is None:
        return [] if field.nullable else [FieldProblem(field.name, None, "must not be null.")]
    if not isinstance(value, str):
        return [FieldProblem(field.name, value, f"must be text, not {type(value).__name__} {value!r}.")]
    if isinstance(field, TextField):
        return _text_problems(field, value)
    allowed = allowed_values(schema, field.name, record)
    if value in allowed:
        return []
    if isinstance(field, DependentEnumField) and value in field.values:
        parent = record.get(field.parent)
        message = f"'{value}' does not go with {field.parent} '{parent}'."
        return [FieldProblem(field.name, value, message, nearest(value, allowed))]
    return [FieldProblem(field.name, value, f"'{value}' is not a value of this field.", nearest(value, allowed))]


def _text_problems(field: TextField, value: str) -> list[FieldProblem]:
    if not value.strip():
        return [FieldProblem(field.name, value, "must not be empty.")]
    if len(value) > field.max_length:
        message = f"has {len(value)} characters; at most {field.max_length} are allowed."
        return [FieldProblem(field.name, value, message)]
    if value != normalise_text(value, field.max_length):
        return [FieldProblem(field.name, value, "must be one line without control characters or doubled spaces.")]
    return []


def _tags_problems(field: TagsField, value: Any) -> list[FieldProblem]:
    if not isinstance(value, list):
        return [FieldProblem(field.name, value, f"must be a list, not {type(value).__name__}.")]
    problems = [
        FieldProblem(field.name, tag, f"'{tag}' is not a value of this field.", nearest(tag, field.values))
        for tag in value
        if tag not in field.values
    ]
    if len(value) > field.max_items:
        problems.append(FieldProblem(field.name, value, f"has {len(value)} tags; at most {field.max_items} are allowed."))
    if not problems and value != [tag for tag in field.values if tag in value]:
        problems.append(FieldProblem(field.name, value, "must list each tag once, in the order of the schema."))
    return problems
