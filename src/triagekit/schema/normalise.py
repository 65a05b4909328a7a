"""Raw label values (another case, other spaces, aliases, numbers) to the spelling that the schema declares."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from triagekit.schema.canonical import normalise_text
from triagekit.schema.fields import DependentEnumField, Field, LabelField, TagsField, TextField, fold
from triagekit.schema.schema import Schema
from triagekit.schema.validate import FieldProblem, validate_record

_TAG_SEPARATORS = re.compile(r"[,;|\n]")


def normalise_record(schema: Schema, raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[FieldProblem]]:
    """A record with exactly the schema's fields, and every problem that is left in it.

    Labels are matched whatever their case and spacing, then by alias; numbers are read as their digits (3.0 as '3').
    Absent, empty and NaN values become null in optional fields, and stay a problem elsewhere. Tags may come as a list,
    as a JSON array, or as text separated by commas, semicolons, bars or line breaks; they are put in declared order.
    Keys that the schema does not know are reported, not kept. A value that fits nothing stays as it is.
    """
    record: dict[str, Any] = {}
    for a_field in schema.fields:
        if a_field.name in raw or isinstance(a_field, TagsField) or a_field.nullable:
            record[a_field.name] = _normalise(a_field, raw.get(a_field.name), record)
    unknown = {key: value for key, value in raw.items() if key not in schema.by_name}
    return record, validate_record(schema, {**record, **unknown} if unknown else record)


def _normalise(a_field: Field, value: Any, record: Mapping[str, Any]) -> Any:
    if isinstance(a_field, TagsField):
        return _tags(a_field, value)
    text = as_text(value)
    if text is None:
        return value if is_structure(value) else None
    if isinstance(a_field, TextField):
        return normalise_text(text, a_field.max_length) or (None if a_field.nullable else "")
    if not text.strip():
        return None
    parent = record.get(a_field.parent) if isinstance(a_field, DependentEnumField) else None
    return _label(a_field, text, parent)


def _label(a_field: LabelField, text: str, parent: Any = None) -> str:
    """The declared spelling of `text`, or `text` stripped if there is none."""
    if isinstance(a_field, DependentEnumField) and isinstance(parent, str):
        if text in a_field.value_sets.get(parent, ()):
            return text
        match = a_field.spellings_by_parent.get(parent, {}).get(fold(text))
        if match is not None:
            return match
    if text in a_field.value_set:
        return text
    stripped = text.strip()
    return stripped if stripped in a_field.value_set else a_field.spellings.get(fold(text), stripped)


def _tags(a_field: TagsField, value: Any) -> Any:
    items = _tag_items(a_field, value)
    if items is None:
        return value
    labels = []
    for item in items:
        text = as_text(item)
        if text is None:
            if is_structure(item):
                return value
        elif text.strip():
            labels.append(_label(a_field, text))
    last = len(a_field.values)
    return sorted(dict.fromkeys(labels), key=lambda label: a_field.positions.get(label, last))


def _tag_items(a_field: TagsField, value: Any) -> list[Any] | None:
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    text = as_text(value)
    if text is None:
        return None if is_structure(value) else []
    if fold(text) in a_field.spellings:
        return [text]
    if text.lstrip().startswith("["):
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            items = None
        if isinstance(items, list):
            return items
    return list(_TAG_SEPARATORS.split(text))


def as_text(value: Any) -> str | None:
    """Scalars as text; None for what is absent (null, NaN) and for what is no scalar."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) else None


def is_structure(value: Any) -> bool:
    return value is not None and not isinstance(value, float)
