"""Every problem of a record, each with its field, its value and the nearest valid value; and the verdict on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

from triagekit.errors import nearest
from triagekit.schema.fields import DependentEnumField, EnumField, TagsField, TextField
from triagekit.schema.schema import Schema

Verdict = Literal["auto", "review", "error"]


@dataclass(frozen=True)
class FieldProblem:
    """One thing wrong with a record. `field` is empty if it concerns the record as a whole."""

    field: str
    value: Any
    message: str
    nearest: str | None = None

    def __str__(self) -> str:
        text = f"{self.field}: {self.message}" if self.field else self.message
        return f"{text} Nearest: '{self.nearest}'." if self.nearest is not None else text


def verdict(problems: Sequence[FieldProblem], parsed: bool = True) -> Verdict:
    """`error`: no record could be read; `review`: something in it is wrong; `auto`: nothing is."""
    if not parsed:
        return "error"
    return "review" if problems else "auto"


def validate_record(schema: Schema, record: Any) -> list[FieldProblem]:
    """Every problem of `record`, in the order of the fields; unknown keys last. Empty for a valid record."""
    if not isinstance(record, dict | Mapping):
        return [FieldProblem("", record, f"expected a JSON object, found {_kind(record)}.")]
    problems: list[FieldProblem] = []
    missing = 0
    for a_field in schema.fields:
        name = a_field.name
        if name not in record:
            missing += 1
            problems.append(FieldProblem(name, None, "the field is missing."))
            continue
        value = record[name]
        if value is None:
            if isinstance(a_field, TagsField) or not a_field.nullable:
                expected = "an array" if isinstance(a_field, TagsField) else "a text"
                problems.append(FieldProblem(name, None, f"expected {expected}, found null."))
        elif isinstance(a_field, EnumField):
            if not (isinstance(value, str) and value in a_field.value_set):
                problems.append(_outside(name, value, a_field.values))
        elif isinstance(a_field, DependentEnumField):
            problem = _dependent(a_field, value, record)
            if problem is not None:
                problems.append(problem)
        elif isinstance(a_field, TextField):
            problem = _text(a_field, value)
            if problem is not None:
                problems.append(problem)
        else:
            problems.extend(_tags(a_field, value))
    if len(record) > len(schema.fields) - missing:
        for key, value in record.items():
            if key not in schema.by_name:
                problems.append(
                    FieldProblem(
                        str(key), value, "the schema has no such field.", _nearest(str(key), schema.field_names)
                    )
                )
    return problems


def _text(a_field: TextField, value: Any) -> FieldProblem | None:
    if not isinstance(value, str):
        return FieldProblem(a_field.name, value, f"expected a text, found {_kind(value)}.")
    if not value:
        hint = "where there is none, write null" if a_field.nullable else "it is never absent"
        return FieldProblem(a_field.name, value, f"the text is empty; {hint}.")
    if len(value) > a_field.max_length:
        message = f"the text has {len(value)} characters; at most {a_field.max_length} are allowed."
        return FieldProblem(a_field.name, value, message)
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        message = "the text has half of a UTF-16 pair in it, which cannot be written as UTF-8."
        return FieldProblem(a_field.name, value, message)
    return None


def _outside(name: str, value: Any, values: tuple[str, ...]) -> FieldProblem:
    if isinstance(value, str):
        return FieldProblem(name, value, f"'{value}' is not one of its {len(values)} values.", _nearest(value, values))
    digits = _digits(value)
    return FieldProblem(name, value, f"expected a text, found {_kind(value)}.", digits if digits in values else None)


def _dependent(a_field: DependentEnumField, value: Any, record: Mapping[str, Any]) -> FieldProblem | None:
    name = a_field.name
    if not isinstance(value, str) or value not in a_field.value_set:
        return _outside(name, value, a_field.values)
    parent = record.get(a_field.parent)
    if parent is None and a_field.parent in record:
        return FieldProblem(name, value, f"must be null where {a_field.parent} is null.")
    allowed = a_field.value_sets.get(parent) if isinstance(parent, str) else None
    # A parent that is itself wrong is told once, at the parent.
    if allowed is None or value in allowed:
        return None
    owners = a_field.parents_of[value]
    message = f"'{value}' does not go with {a_field.parent} '{parent}', only with {_listed(owners)}."
    return FieldProblem(name, value, message, _nearest(value, a_field.values_by_parent[str(parent)]))


def _tags(a_field: TagsField, value: Any) -> list[FieldProblem]:
    name = a_field.name
    if not isinstance(value, list | tuple):
        return [FieldProblem(name, value, f"expected an array, found {_kind(value)}.")]
    problems = [
        _outside(name, tag, a_field.values) for tag in value if not (isinstance(tag, str) and tag in a_field.value_set)
    ]
    if problems:
        return problems
    places = [a_field.positions[tag] for tag in value]
    if len(set(places)) < len(places):
        problems.append(FieldProblem(name, value, "a tag stands there twice."))
    elif any(left > right for left, right in pairwise(places)):
        problems.append(FieldProblem(name, value, "the tags are not in the declared order."))
    if len(value) > a_field.max_items:
        problems.append(FieldProblem(name, value, f"{len(value)} tags; at most {a_field.max_items} are allowed."))
    return problems


@lru_cache(maxsize=8192)
def _nearest(value: str, choices: tuple[str, ...]) -> str | None:
    # Archives repeat their mistakes, and the search for the nearest value is a thousand times slower than the check.
    return nearest(value[:200], choices)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names[:5]) + (", …" if len(names) > 5 else "")


def _digits(value: Any) -> str:
    """A number in figures; Python refuses to write whole numbers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 200:
        return "beyond 200 bits"
    return str(value) if isinstance(value, int | float) else ""


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {_digits(value)}"
    if isinstance(value, str):
        return "a text"
    return (
        "an array"
        if isinstance(value, list | tuple)
        else "an object"
        if isinstance(value, Mapping)
        else "something else"
    )
