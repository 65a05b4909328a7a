"""One schema in the forms that other engines can be constrained by, all of them without whitespace where they say so.

Engines on xgrammar take a JSON schema but pass over `allOf`/`if`/`then`, by which `triage schema json` says which values
of a dependent field go with which parent, so these forms say it otherwise or not at all:

- any_of: JSON schema, one object for each value of the parent. plain: JSON schema, any value of the dependent field.
- grammar: EBNF in xgrammar's dialect, the same language as any_of, in which the fields before the parent stand once.

A text field is one to max_length characters by `pattern`, and with "_length" behind the form's name by `maxLength`.
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
        "any_of": any_of(schema, by_pattern=True),
        "any_of_length": any_of(schema, by_pattern=False),
        "plain": record_object(schema, {}, by_pattern=True),
        "plain_length": record_object(schema, {}, by_pattern=False),
    }


def check(schema: Schema) -> None:
    """Text, enum, and dependent enum behind its parent: what the schema of this benchmark has."""
    for before, field in zip([None, *schema.fields], schema.fields, strict=False):
        dependent = isinstance(field, DependentEnumField) and before is not None and before.name == field.parent
        if not (dependent or isinstance(field, TextField | EnumField)) or field.nullable:
            raise SystemExit(f"field '{field.name}' of schema '{schema.name}' has no form for other engines")


def any_of(schema: Schema, by_pattern: bool) -> dict[str, Any]:
    """One object for each value of the first parent; the plain object where no field depends on another."""
    child = next((field for field in schema.fields if isinstance(field, DependentEnumField)), None)
    if child is None:
        return record_object(schema, {}, by_pattern)
    return {
        "anyOf": [
            record_object(schema, {child.parent: (value,), child.name: allowed}, by_pattern)
            for value, allowed in child.values_by_parent.items()
        ]
    }


def record_object(schema: Schema, values: dict[str, tuple[str, ...]], by_pattern: bool) -> dict[str, Any]:
    """The record as an object of fixed keys; `values` replaces those of some fields."""
    return {
        "type": "object",
        "properties": {field.name: _property(field, values.get(field.name), by_pattern) for field in schema.fields},
        "required": list(schema.field_names),
        "additionalProperties": False,
    }


def _property(field: Field, values: tuple[str, ...] | None, by_pattern: bool) -> dict[str, Any]:
    if not isinstance(field, TextField):
        return {"type": "string", "enum": list(values or field.values)}
    if by_pattern:
        return {"type": "string", "pattern": f"^{CHARACTER}{{1,{field.max_length}}}$"}
    return {"type": "string", "minLength": 1, "maxLength": field.max_length}


def grammar(schema: Schema) -> str:
    """The record as EBNF, without whitespace and with the escapes of canonical JSON."""
    rules, parts = [], []
    opening = "{"
    fields = list(schema.fields)
    for number, field in enumerate(fields):
        if isinstance(field, DependentEnumField):
            continue
        child = fields[number + 1] if number + 1 < len(fields) else None
        parts.append(_literal(f'{opening}"{field.name}":"'))
        if isinstance(field, TextField):
            rules.append(f"text{number} ::= character{{1,{field.max_length}}}")
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
    rules.append(f'character ::= {CHARACTER} | "\\\\" ["\\\\]')
    return "\n".join([f"root ::= {' '.join(parts)}", *rules])


def _choice(values: tuple[str, ...]) -> str:
    return " | ".join(_literal(value) for value in values)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
