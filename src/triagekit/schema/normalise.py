"""Labels as people write them to labels as the schema spells them: aliases, case, white space."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from triagekit.schema.canonical import normalise_text
from triagekit.schema.fields import Field, TagsField, TextField, folded
from triagekit.schema.schema import Schema
from triagekit.schema.validate import FieldProblem, validate_record


def normalise_record(schema: Schema, raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[FieldProblem]]:
    """(record in the schema's spelling, what is still wrong with it). Absent and empty values become null."""
    record = {field.name: _value(schema, field, raw.get(field.name)) for field in schema.fields}
    problems = validate_record(schema, record)
    extra = [name for name in raw if name not in schema.field_names]
    return record, problems + [FieldProblem(str(name), raw[name], "is not a field of this schema.") for name in extra]


def _value(schema: Schema, field: Field, value: Any) -> Any:
    if isinstance(field, TagsField):
        return _tags(schema, field, value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    if isinstance(value, float):
        if value != value:  # NaN is how data frames spell a missing value
            return None
        text = str(int(value)) if value.is_integer() else str(value)
    else:
        text = str(value)
    if isinstance(field, TextField):
        return normalise_text(text, field.max_length)
    return schema.spellings[field.name].get(folded(text), text.strip())


def _tags(schema: Schema, field: TagsField, value: Any) -> Any:
    if value is None:
        return []
    if isinstance(value, str):
        value = _split(value)
    if not isinstance(value, Sequence):
        return value
    spelled = [schema.spellings[field.name].get(folded(str(tag)), tag) for tag in value]
    known = [tag for tag in field.values if tag in spelled]
    return known + [tag for tag in spelled if tag not in field.values]


def _split(text: str) -> list[Any]:
    """A list in one cell: JSON, or separated by commas, semicolons or bars."""
    if text.strip().startswith("["):
        try:
            return list(json.loads(text))
        except ValueError:
            pass
    for separator in (";", "|", ","):
        if separator in text:
            return [part.strip() for part in text.split(separator) if part.strip()]
    return [text.strip()] if text.strip() else []
