"""The same figures per language, source or any other column the data carries: an average hides who is served badly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from triagekit.evaluation.intervals import mean_intervals
from triagekit.evaluation.table import PredictionTable

MOST_VALUES = 30
"""Values of one column shown by themselves; the rarer ones are pooled."""


def slice_metrics(
    table: PredictionTable, label_fields: Sequence[str], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """`{column: {value: {"rows", "exact_match", "fields": {field: accuracy}}}}`, most frequent value first."""
    return {column: _column(table, column, label_fields, resamples, seed) for column in table.slices}


def _column(
    table: PredictionTable, column: str, label_fields: Sequence[str], resamples: int, seed: int
) -> dict[str, Any]:
    values = ["(unknown)" if value is None else value for value in table.slices[column]]
    order = [value for value, _ in sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))]
    shown = set(order[:MOST_VALUES])
    pooled = f"({len(order) - MOST_VALUES} rarer values)"
    names = [value if value in shown else pooled for value in values]
    result = {}
    for name in dict.fromkeys([*order[:MOST_VALUES], *([pooled] if pooled in names else [])]):
        part = table.take(index for index, value in enumerate(names) if value == name)
        means = mean_intervals(
            {"exact_match": part.all_correct(label_fields)} | {field: part.correct(field) for field in label_fields},
            resamples,
            seed,
        )
        result[name] = {"rows": len(part), "exact_match": means.pop("exact_match"), "fields": means}
    return result
