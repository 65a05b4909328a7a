"""One schema in the forms that other engines can be constrained by.

Engines on xgrammar take a JSON schema but pass over `allOf`/`if`/`then`, by which the schema's own form says which values
of a dependent field go with which parent, so these forms say it otherwise or not at all:

- grammar: EBNF in xgrammar's dialect, without whitespace. The fields before the parent stand once, its values branch.
- any_of: JSON schema, one object for each value of the parent. plain: JSON schema, any value of the dependent field.

Of the ways to bound a text field these are the fastest. In xgrammar 0.2.8 a mask takes 10-20 us under `maxLength` and
under a repeated character class; a repeated rule with alternatives (for escapes) takes 40 ms, and `pattern` with a bound
above about 100 fails to compile. Hence no form lets the model write a quote or backslash inside a text.
"""

from __future__ import annotations

import json
from typing import Any

from triagekit.schema.fields import DependentEnumField, EnumField, Field, TextField
from triagekit.schema.schema import Schema

CHARACTER = r'[^"\\\x00-\x1f]'


def schema_forms(schema: Schema) -> dict[str, Any]:
    """All forms by their names. SystemExit for fields that they are not written for."""
    check(schema)
    return {
        "grammar": grammar(schema),
        "any_of": any_of(schema),
        "plain": record_object(schema, {}),
    }


def check(schema: Schema) -> None:
    """Text, enum, and dependent enum behind its parent: what the schema of this benchmark has."""
    for before, field in zip([None, *schema.fields], schema.fields, strict=False):
        dependent = isinstance(field, DependentEnumField) and before is not None and before.name == field.parent
        if not (dependent or isinstance(field, TextField | EnumField)) or field.nullable:
            raise SystemExit(f"field '{field.name}' of schema '{schema.name}' has no form for other engines")


def any_of(schema: Schema) -> dict[str, Any]:
    """One object for each value of the first parent; the plain object where no field depends on another."""
    child = next((field for field in schema.fields if isinstance(field, DependentEnumField)), None)
    if child is None:
        return record_object(schema, {})
    return {
        "anyOf": [
            record_object(schema, {child.parent: (value,), child.name: allowed})
            for value, allowed in child.values_by_parent.items()
        ]
    }


def record_object(schema: Schema, values: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """The record as an object of fixed keys; `values` replaces those of some fields."""
    return {
        "type": "object",
        "properties": {field.name: _property(field, values.get(field.name)) for field in schema.fields},
        "required": list(schema.field_names),
        "additionalProperties": False,
    }


def _property(field: Field, values: tuple[str, ...] | None) -> dict[str, Any]:
    if not isinstance(field, TextField):
        return {"type": "string", "enum": list(values or field.values)}
    return {"type": "string", "minLength": 1, "maxLength": field.max_length}


def grammar(schema: Schema) -> str:
    """The record as EBNF."""
    rules, parts = [], []
    opening = "{"
    fields = list(schema.fields)
    for number, field in enumerate(fields):
        if isinstance(field, DependentEnumField):
            continue
        child = fields[number + 1] if number + 1 < len(fields) else None
        parts.append(_literal(f'{opening}"{field.name}":"'))
        if isinstance(field, TextField):
            rules.append(f"text{number} ::= {CHARACTER}{{1,{field.max_length}}}")
            parts.append(f"text{number}")
        elif isinstance(child, DependentEnumField):
            between = f'","{child.name}":"'
            pairs = [
                f"{_literal(value + between)} ({_choice(allowed)})" for value, allowed in child.values_by_parent.items()
            ]
            parts.append(f"({' | '.join(pairs)})")
        else:
            parts.append(f"({_choice(field.values)})")
        opening = '",'
    parts.append(_literal('"}'))
    return "\n".join([f"root ::= {' '.join(parts)}", *rules])


def _choice(values: tuple[str, ...]) -> str:
    return " | ".join(_literal(value) for value in values)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
