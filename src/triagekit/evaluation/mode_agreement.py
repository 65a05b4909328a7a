"""Records of the same tickets decoded in another mode (int8 weights, fewer fields): what the mode costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from triagekit.evaluation.intervals import difference_intervals, mean_intervals
from triagekit.evaluation.table import PredictionTable, same_value
from triagekit.schema.schema import Schema

_LABELS = ""
"""All label fields together, beside names of fields."""


def mode_agreement(schema: Schema, table: PredictionTable, usual: PredictionTable, seed: int = 0) -> dict[str, Any]:
    """Of each field of `schema`, which may be fewer than `usual` has: `same`, the share of tickets with the same value in both,
    and `difference`, how much more often it is right in `table`. The same of all label fields together as `labels`.

    Each with a 95 % interval over tickets, paired: both tables hold the same tickets in the same order (ValueError elsewhere).
    """
    if table.ids != usual.ids:
        raise ValueError("These are predictions of other tickets.")
    same = {name: _same(table, usual, name) for name in schema.field_names}
    difference = {name: table.correct(name).astype(float) - usual.correct(name) for name in schema.field_names}
    names = [field.name for field in schema.label_fields]
    if names:
        same[_LABELS] = np.prod([same[name] for name in names], axis=0)
        difference[_LABELS] = table.all_correct(names).astype(float) - usual.all_correct(names)
    shares, differences = mean_intervals(same, seed=seed), difference_intervals(difference, seed=seed)
    found = {name: {"same": shares[name], "difference": differences[name]} for name in same}
    return {"labels": found.pop(_LABELS, None), "fields": found}


def _same(table: PredictionTable, usual: PredictionTable, field: str) -> np.ndarray:
    pairs = zip(table.predicted[field], usual.predicted[field], strict=True)
    return np.array([same_value(one, other) for one, other in pairs], dtype=float)
