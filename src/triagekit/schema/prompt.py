"""The schema in words, for the system message of the explicit prompt strategy: short, because every ticket pays for it."""

from __future__ import annotations

import json

from triagekit.schema.fields import DependentEnumField, Field, TagsField, TextField, is_nullable
from triagekit.schema.schema import Schema

OPENING = "Read the support ticket and answer with one JSON object and nothing else. Its keys, in this order:"
COMPACT_OPENING = "Read the support ticket and answer with one value a line and nothing else, in this order:"


def schema_prompt(schema: Schema) -> str:
    """What an answer has to look like: every field with its values, values per parent for dependent fields.

    One line for each field and each parent value; values are separated by ` | `. Depends on nothing but the schema.
    """
    compact = schema.format == "compact"
    lines = [COMPACT_OPENING if compact else OPENING]
    for a_field in schema.fields:
        lines += _field_lines(a_field, compact)
    return "\n".join(lines)


def _field_lines(a_field: Field, compact: bool) -> list[str]:
    null = " or null" if is_nullable(a_field) else ""
    described = f" ({a_field.description})" if a_field.description else ""
    head = f"- {a_field.name}{described}:"
    if isinstance(a_field, TextField):
        return [f"{head} text, at most {a_field.max_length} characters{null}"]
    if isinstance(a_field, TagsField):
        several = "at most" if compact else "array of at most"
        return [f"{head} {several} {a_field.max_items}, possibly none, of {_listed(a_field.values)}"]
    if isinstance(a_field, DependentEnumField):
        lines = [
            f"  {_plain(parent)}: {_listed(values) + null if values else 'null'}"
            for parent, values in a_field.values_by_parent.items()
        ]
        return [f"{head} by {a_field.parent}", *lines]
    return [f"{head} {_listed(a_field.values)}{null}"]


def _listed(values: tuple[str, ...]) -> str:
    return " | ".join(_plain(value) for value in values)


def _plain(value: str) -> str:
    """The value as it is; in JSON quotes where a reader could not tell where it ends."""
    return json.dumps(value, ensure_ascii=False) if any(sign in value for sign in '|":') else value
