"""A ticket record's definition: the one source of prompt, canonical JSON, JSON Schema, grammar and validator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from triagekit.errors import TriageError, did_you_mean
from triagekit.files.fingerprint import fingerprint_json
from triagekit.schema.fields import DependentEnumField, EnumField, Field, LabelField, TagsField, TextField

DEFAULT_INSTRUCTIONS = (
    "Turn this support ticket into its JSON record.",
    "Read the ticket and fill in the record. Answer with JSON only.",
    "Sort this request: give the JSON record for it.",
    "Which record belongs to this ticket? Reply in JSON.",
)
"""Used where a schema brings no instructions of its own."""
COMPACT_INSTRUCTIONS = (
    "Turn this support ticket into its record: one value a line.",
    "Read the ticket and fill in the record. Answer with its values only.",
    "Sort this request: give the values of its record.",
    "Which record belongs to this ticket? Reply with one value a line.",
)
"""The same for the compact format."""

RecordFormat = Literal["json", "compact"]
_OWN_INSTRUCTIONS: dict[RecordFormat, tuple[str, ...]] = {"json": DEFAULT_INSTRUCTIONS, "compact": COMPACT_INSTRUCTIONS}


@dataclass(frozen=True)
class Schema:
    """What a ticket record is. The order of `fields` is the order of the keys in every record's JSON.

    `instructions` are the short prompts of the implicit strategy, which names no fields and no values.
    `format`: what the model writes. json: the record's canonical JSON; compact: its values alone, one a line, from which
    the same JSON is made.
    Raises ProblemsError with every mistake at once if the fields do not fit together.
    """

    name: str
    title: str = ""
    description: str = ""
    instructions: tuple[str, ...] = DEFAULT_INSTRUCTIONS
    fields: tuple[Field, ...] = ()
    format: RecordFormat = "json"

    def __post_init__(self) -> None:
        from triagekit.schema.definition import check_definition

        check_definition(self.to_dict())

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """Field name → field, in order."""
        return {a_field.name: a_field for a_field in self.fields}

    @cached_property
    def field_names(self) -> tuple[str, ...]:
        """The keys of a record, in order."""
        return tuple(self.by_name)

    @cached_property
    def label_fields(self) -> tuple[LabelField, ...]:
        """Every field with a closed set of values: all but text."""
        return tuple(a_field for a_field in self.fields if not isinstance(a_field, TextField))

    def field(self, name: str) -> Field:
        """The field called `name`. Raises TriageError with the nearest name if there is none."""
        try:
            return self.by_name[name]
        except KeyError:
            raise TriageError(
                f"Schema '{self.name}' has no field '{name}'. {did_you_mean(name, self.field_names)}"
            ) from None

    def in_format(self, wanted: RecordFormat) -> Schema:
        """The same records, written in another format; instructions that are not the schema's own change with it."""
        own = self.instructions != _OWN_INSTRUCTIONS[self.format]
        return replace(self, format=wanted, instructions=self.instructions if own else _OWN_INSTRUCTIONS[wanted])

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of which records are valid and of their canonical JSON.

        Titles, descriptions, instructions, aliases and the format are left out: they change prompts (which have a
        fingerprint of their own) or the reading of raw data, never what a record is.
        """
        dropped = ("description", "aliases")
        return fingerprint_json(
            [
                {key: value for key, value in field_to_dict(a_field).items() if key not in dropped}
                for a_field in self.fields
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """The same keys as in the YAML file; only JSON types; the default format, and defaults of fields, left out."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            **({"format": self.format} if self.format != "json" else {}),
            "instructions": list(self.instructions),
            "fields": [field_to_dict(a_field) for a_field in self.fields],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """Inverse of to_dict; also what a YAML file holds. Raises ProblemsError with every mistake at once."""
        from triagekit.schema.definition import read_definition

        return cls(**read_definition(data))


def field_to_dict(a_field: Field) -> dict[str, Any]:
    """One field as it would stand in the YAML file."""
    data: dict[str, Any] = {"name": a_field.name}
    match a_field:
        case TextField():
            data |= {"kind": "text", "max_length": a_field.max_length}
        case EnumField():
            data |= {"kind": "enum", "values": list(a_field.values)}
            if a_field.ordered:
                data["ordered"] = True
        case DependentEnumField():
            values = {parent: list(allowed) for parent, allowed in a_field.values_by_parent.items()}
            data |= {"kind": "enum", "depends_on": a_field.parent, "values": values}
        case TagsField():
            data |= {"kind": "tags", "max_items": a_field.max_items, "values": list(a_field.values)}
    if isinstance(a_field, EnumField | DependentEnumField) and a_field.aliases:
        data["aliases"] = dict(a_field.aliases)
    if not isinstance(a_field, TagsField) and a_field.nullable:
        data["optional"] = True
    if a_field.description:
        data["description"] = a_field.description
    return data
