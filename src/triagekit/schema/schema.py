"""A record schema: named fields in output order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from triagekit.files.fingerprint import fingerprint_json
from triagekit.schema.fields import DependentEnumField, EnumField, Field, TagsField, TextField, folded

DEFAULT_INSTRUCTIONS = (
    "Turn this ticket into its JSON record.",
    "Read the request below and fill in the record as JSON.",
    "Classify the message and answer with the JSON record only.",
    "Extract the ticket's fields as one JSON object.",
)


@dataclass(frozen=True)
class Schema:
    """Fields in the order in which they stand in every record."""

    name: str
    title: str
    description: str
    fields: tuple[Field, ...]
    instructions: tuple[str, ...] = DEFAULT_INSTRUCTIONS

    @cached_property
    def _by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields}

    def field(self, name: str) -> Field:
        """The field called `name`. Raises KeyError."""
        return self._by_name[name]

    @cached_property
    def field_names(self) -> tuple[str, ...]:
        """Names in output order."""
        return tuple(self._by_name)

    @cached_property
    def label_fields(self) -> tuple[Field, ...]:
        """All fields but free text."""
        return tuple(field for field in self.fields if not isinstance(field, TextField))

    @cached_property
    def spellings(self) -> dict[str, dict[str, str]]:
        """For each label field: folded spelling (values and aliases) → value as declared."""
        tables: dict[str, dict[str, str]] = {}
        for field in self.label_fields:
            aliases = field.aliases if isinstance(field, EnumField | DependentEnumField) else {}
            table = {folded(alias): value for alias, value in aliases.items()}
            values = () if isinstance(field, TextField) else field.values
            tables[field.name] = table | {folded(value): value for value in values}
        return tables

    @cached_property
    def fingerprint(self) -> str:
        """Content fingerprint of everything that prompts, targets or decoding depend on; order counts."""
        return fingerprint_json(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """JSON form in the layout of the YAML file."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "instructions": list(self.instructions),
            "fields": [_field_dict(field) for field in self.fields],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Schema:
        """The schema of to_dict. Raises ProblemsError with every mistake."""
        from triagekit.schema.load import schema_from_data

        return schema_from_data(stored)


def _field_dict(field: Field) -> dict[str, Any]:
    result: dict[str, Any] = {"name": field.name}
    if isinstance(field, TextField):
        result |= {"kind": "text", "max_length": field.max_length}
    elif isinstance(field, TagsField):
        result |= {"kind": "tags", "values": list(field.values), "max_items": field.max_items}
    elif isinstance(field, EnumField):
        result |= {"kind": "enum", "values": list(field.values)}
        if field.ordered:
            result["ordered"] = True
    elif isinstance(field, DependentEnumField):
        pairs = {parent: list(values) for parent, values in field.values_by_parent.items()}
        result |= {"kind": "enum", "depends_on": field.parent, "values": pairs}
    if isinstance(field, EnumField | DependentEnumField) and field.aliases:
        result["aliases"] = dict(field.aliases)
    if not isinstance(field, TagsField) and field.nullable:
        result["optional"] = True
    if field.description:
        result["description"] = field.description
    return result
