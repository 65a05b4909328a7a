"""The columns of a part: what each is called, of what kind it is, and what stands in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from triagekit.errors import Problem, ProblemsError
from triagekit.schema.fields import Field, TagsField
from triagekit.scoring.intake import text_hash
from triagekit.scoring.policy import RECORD_CONFIDENCE, calibrated_columns

if TYPE_CHECKING:
    from triagekit.schema.schema import Schema
    from triagekit.scoring.intake import Shard
    from triagekit.scoring.predictor import Prediction

Kind = Literal["text", "texts", "number"]
Columns = dict[str, list[Any]]
"""Column name → one cell a row: str, list of str, float, or None."""
_OWN_COLUMNS = ("id", "text_hash", "verdict", "error", "raw", "adapter_fingerprint", "schema_fingerprint")


def column_kinds(schema: Schema, calibrated: bool = False, carried: Iterable[str] = ()) -> dict[str, Kind]:
    """Columns of a part, in order: those of a calibration only where one was used, and those that are carried along."""
    kinds: dict[str, Kind] = {"id": "text", "text_hash": "text"}
    kinds |= dict.fromkeys(carried, "text")
    kinds |= {field.name: "texts" if isinstance(field, TagsField) else "text" for field in schema.fields}
    kinds |= dict.fromkeys(_confidence_columns(schema), "number")
    if calibrated:
        kinds |= dict.fromkeys(_calibrated_columns(schema), "number")
    kinds |= dict.fromkeys(_OWN_COLUMNS[2:], "text")
    return kinds


def output_columns(schema: Schema) -> list[str]:
    """Every column that a part may have by itself, with or without a calibration."""
    return [*_OWN_COLUMNS, *schema.field_names, *_confidence_columns(schema), *_calibrated_columns(schema)]


def check_column_names(schema: Schema) -> None:
    """Raises ProblemsError for fields whose names the output's own columns have."""
    names = {*_OWN_COLUMNS, *_confidence_columns(schema), *_calibrated_columns(schema)}
    problems = [
        Problem(f"field '{field.name}'", "the output has a column of its own with this name.", "Rename the field.")
        for field in schema.fields
        if field.name in names
    ]
    if RECORD_CONFIDENCE in _confidence_columns(schema):
        problems.append(Problem("field 'record'", f"{RECORD_CONFIDENCE} is of the whole record.", "Rename the field."))
    if problems:
        raise ProblemsError(f"Records of schema '{schema.name}' cannot be written as a table:", problems)


def part_columns(
    schema: Schema,
    shard: Shard,
    predictions: Sequence[Prediction],
    beside: Mapping[str, Sequence[float | None]],
    adapter_fingerprint: str,
) -> Columns:
    """What stands in the part of a shard; `beside` are the columns that a calibration adds."""
    columns: Columns = {"id": [identity for identity, _ in shard.rows]}
    columns["text_hash"] = [text_hash(text) for _, text in shard.rows]
    columns |= {name: list(cells) for name, cells in shard.carried.items()}
    for field in schema.fields:
        columns[field.name] = [_cell(field, item.record) for item in predictions]
    for field in schema.fields:
        columns[f"confidence_{field.name}"] = [item.confidence.get(field.name) for item in predictions]
    columns |= {name: list(values) for name, values in beside.items()}
    columns["verdict"] = [item.verdict for item in predictions]
    columns["error"] = [item.error for item in predictions]
    columns["raw"] = [item.text if item.problems and item.text else None for item in predictions]
    columns["adapter_fingerprint"] = [adapter_fingerprint] * len(shard.rows)
    columns["schema_fingerprint"] = [schema.fingerprint] * len(shard.rows)
    return columns


def _cell(field: Field, record: Mapping[str, Any] | None) -> Any:
    """A field as its column holds it. What an unconstrained model wrote may be of another type: text then, or null."""
    value = None if record is None else record.get(field.name)
    if isinstance(field, TagsField):
        return [str(item) for item in value] if isinstance(value, list) else None
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _confidence_columns(schema: Schema) -> list[str]:
    return [f"confidence_{field.name}" for field in schema.fields]


def _calibrated_columns(schema: Schema) -> list[str]:
    return calibrated_columns([field.name for field in schema.label_fields])
