"""JSON Schema (draft 2020-12) of a ticket record, for other tools: validators, serving engines, editors."""

from __future__ import annotations

from typing import Any

from triagekit.schema.fields import DependentEnumField, EnumField, Field, TagsField, TextField
from triagekit.schema.schema import Schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(schema: Schema) -> dict[str, Any]:
    """The schema as JSON Schema.

    Every key is required and no other is allowed; which values of a dependent field go with which value of its parent
    is said by `allOf` with `if`/`then`. It accepts exactly the records that validate_record accepts, but for two things
    that JSON Schema cannot say: the declared order of tags, and text that cannot be written as UTF-8.
    """
    result: dict[str, Any] = {"$schema": DIALECT, "title": schema.title or schema.name}
    if schema.description:
        result["description"] = schema.description
    result |= {
        "type": "object",
        "properties": {a_field.name: _property(a_field) for a_field in schema.fields},
        "required": list(schema.field_names),
        "additionalProperties": False,
    }
    rules = [
        rule for a_field in schema.fields if isinstance(a_field, DependentEnumField) for rule in _rules(schema, a_field)
    ]
    if rules:
        result["allOf"] = rules
    return result


def _property(a_field: Field) -> dict[str, Any]:
    described = {"description": a_field.description} if a_field.description else {}
    if isinstance(a_field, TextField):
        kinds = ["string", "null"] if a_field.nullable else "string"
        return {"type": kinds, "minLength": 1, "maxLength": a_field.max_length, **described}
    if isinstance(a_field, TagsField):
        items = {"type": "string", "enum": list(a_field.values)}
        return {"type": "array", "items": items, "uniqueItems": True, "maxItems": a_field.max_items, **described}
    if a_field.nullable:
        return {"type": ["string", "null"], "enum": [*a_field.values, None], **described}
    return {"type": "string", "enum": list(a_field.values), **described}


def _rules(schema: Schema, child: DependentEnumField) -> list[dict[str, Any]]:
    null = [None] if child.nullable else []
    rules = [
        _rule(child.parent, parent_value, child.name, [*values, *null])
        for parent_value, values in child.values_by_parent.items()
    ]
    parent = schema.field(child.parent)
    if isinstance(parent, EnumField | DependentEnumField) and parent.nullable:
        rules.append(_rule(child.parent, None, child.name, null))
    return rules


def _rule(parent: str, parent_value: str | None, child: str, allowed: list[Any]) -> dict[str, Any]:
    return {
        "if": {"properties": {parent: {"const": parent_value}}, "required": [parent]},
        "then": {"properties": {child: {"enum": allowed}}},
    }
