"""What a ticket record is: fields, canonical JSON, JSON Schema, prompt, validation, tolerant parsing, drafting.

Importing this package loads the standard library only; PyYAML is loaded when a file is read.
"""

from triagekit.schema.canonical import (
    allowed_values,
    canonical_json,
    normalise_text,
    record_segments,
)
from triagekit.schema.fields import DependentEnumField, EnumField, Field, LabelField, TagsField, TextField
from triagekit.schema.infer import InferredSchema, infer_schema
from triagekit.schema.json_schema import json_schema
from triagekit.schema.load import load_schema
from triagekit.schema.normalise import normalise_record
from triagekit.schema.parse import ParsedRecord, parse_record
from triagekit.schema.prompt import schema_prompt
from triagekit.schema.schema import Schema
from triagekit.schema.segment import Segment
from triagekit.schema.validate import FieldProblem, Verdict, validate_record, verdict
from triagekit.schema.yaml_text import schema_yaml

__all__ = [
    "DependentEnumField",
    "EnumField",
    "Field",
    "FieldProblem",
    "InferredSchema",
    "LabelField",
    "ParsedRecord",
    "Schema",
    "Segment",
    "TagsField",
    "TextField",
    "Verdict",
    "allowed_values",
    "canonical_json",
    "infer_schema",
    "json_schema",
    "load_schema",
    "normalise_record",
    "normalise_text",
    "parse_record",
    "record_segments",
    "schema_prompt",
    "schema_yaml",
    "validate_record",
    "verdict",
]
