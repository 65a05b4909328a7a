"""What a ticket record is: one YAML gives prompt, canonical JSON, JSON Schema, validation, and the decoding grammar's source."""

from triagekit.schema.canonical import (
    Segment,
    canonical_json,
    normalise_text,
    record_segments,
)
from triagekit.schema.fields import (
    DependentEnumField,
    EnumField,
    Field,
    TagsField,
    TextField,
    allowed_values,
)
from triagekit.schema.load import load_schema
from triagekit.schema.normalise import normalise_record
from triagekit.schema.prompt import schema_prompt
from triagekit.schema.schema import Schema
from triagekit.schema.validate import FieldProblem, Verdict, validate_record, verdict

__all__ = [
    "DependentEnumField",
    "EnumField",
    "Field",
    "FieldProblem",
    "Schema",
    "Segment",
    "TagsField",
    "TextField",
    "Verdict",
    "allowed_values",
    "canonical_json",
    "load_schema",
    "normalise_record",
    "normalise_text",
    "record_segments",
    "schema_prompt",
    "validate_record",
    "verdict",
]
