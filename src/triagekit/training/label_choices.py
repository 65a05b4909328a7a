"""Class weights and balanced sampling: which fields and values they may name, and the figures that follow from counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from triagekit.data.rows import Row
from triagekit.errors import Problem, ProblemsError, did_you_mean
from triagekit.schema import Schema, TagsField, TextField
from triagekit.training.settings import TrainSettings


def balanced_weights(values: Sequence[str]) -> list[float]:
    """Draw weight of each row so that every value is drawn equally often: 1 / how often its value occurs."""
    counts = Counter(values)
    return [1 / counts[value] for value in values]


def value_key(value: Any) -> str:
    """The name under which a field's value is counted and weighted; a null is 'null'."""
    return "null" if value is None else str(value)


def label_field_numbers(schema: Schema) -> list[int]:
    """Indices of the schema's fields that have labels, not free text."""
    return [number for number, field in enumerate(schema.fields) if not isinstance(field, TextField)]


def check_label_choices(settings: TrainSettings, schema: Schema) -> None:
    """Refuse class weights and balanced sampling on fields or values that the schema does not have.

    Raises ProblemsError with every mistake and the nearest valid names.
    """
    problems: list[Problem] = []
    usable = [field.name for field in schema.fields if not isinstance(field, (TextField, TagsField))]
    named = [("sampling.field", settings.sampling.field)] if settings.sampling.field else []
    for where, name in [*named, *((f"class_weights.{name}", name) for name in settings.class_weights)]:
        if name not in usable:
            hint = did_you_mean(name, usable)
            problems.append(Problem(where, f"'{name}' is no field of schema {schema.name} with single labels.", hint))
            continue
        chosen = settings.class_weights.get(name)
        field = schema.field(name)
        values = [*getattr(field, "values", ()), *(["null"] if getattr(field, "nullable", False) else [])]
        if where.startswith("class_weights") and isinstance(chosen, dict):
            problems.extend(
                Problem(f"{where}.{value}", f"'{value}' is no value of {name}.", did_you_mean(value, values))
                for value in chosen
                if value not in values
            )
    if problems:
        raise ProblemsError("The settings do not fit the schema:", problems)


def class_weights(settings: TrainSettings, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Field → value → weight. 'balanced' is rows / (values × rows of the value), so that the mean weight is 1."""
    resolved: dict[str, dict[str, float]] = {}
    for name, chosen in settings.class_weights.items():
        if isinstance(chosen, dict):
            resolved[name] = dict(chosen)
            continue
        counts = Counter(value_key(row.record.get(name)) for row in rows)
        resolved[name] = {value: len(rows) / (len(counts) * count) for value, count in counts.items()}
    return resolved
