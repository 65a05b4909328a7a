"""The schema in words: the system message of the `explicit` prompt strategy."""

from __future__ import annotations

from triagekit.schema.fields import DependentEnumField, Field, TagsField, TextField
from triagekit.schema.schema import Schema


def schema_prompt(schema: Schema) -> str:
    """What to do, then one line a field in output order, with every value."""
    lines = [
        "Turn the support ticket into one JSON record with exactly these fields, in this order:",
        *(f"- {field.name}: {_describe(field)}" for field in schema.fields),
        "Answer with the JSON only.",
    ]
    return "\n".join(lines)


def _describe(field: Field) -> str:
    about = f"{field.description.rstrip('.')}; " if field.description else ""
    if isinstance(field, TextField):
        return f"{about}text, at most {field.max_length} characters{_or_null(field.nullable)}"
    if isinstance(field, TagsField):
        return f"{about}list of up to {field.max_items} of {' | '.join(field.values)}"
    if isinstance(field, DependentEnumField):
        pairs = "; ".join(f"{parent}: {' | '.join(values)}" for parent, values in field.values_by_parent.items())
        return f"{about}depends on {field.parent}: {pairs}{_or_null(field.nullable)}"
    order = " (in rising order)" if field.ordered else ""
    return f"{about}{' | '.join(field.values)}{order}{_or_null(field.nullable)}"


def _or_null(nullable: bool) -> str:
    return ", or null" if nullable else ""
