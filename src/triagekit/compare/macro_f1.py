"""Macro-F1 of compared methods: a figure that is no mean over tickets, so that its intervals come from resamples of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from triagekit.compare.methods import Method
from triagekit.compare.statistics import SeedSamples
from triagekit.evaluation.classification import macro_f1_samples
from triagekit.evaluation.intervals import RESAMPLES
from triagekit.evaluation.metrics import field_labels
from triagekit.schema.fields import DependentEnumField, EnumField, TagsField
from triagekit.schema.schema import Schema


def one_label_fields(schema: Schema) -> list[EnumField | DependentEnumField]:
    """The label fields of which a ticket has one value at most."""
    return [field for field in schema.label_fields if not isinstance(field, TagsField)]


def method_macro_f1(
    method: Method, fields: Sequence[EnumField | DependentEnumField], resamples: int = RESAMPLES, seed: int = 0
) -> SeedSamples:
    """Macro-F1, the mean over `fields`, of each of the method's seeds, and on each bootstrap resample of its tickets.

    The draws are the same for all methods on the same tickets (`Method.on`).
    """
    values, samples = [], []
    for table in method.tables:
        found = [macro_f1_samples(*field_labels(field, table), resamples, seed) for field in fields]
        values.append(float(np.mean([value for value, _ in found])))
        samples.append(np.mean([own for _, own in found], axis=0))
    return SeedSamples(np.array(values), np.stack(samples, axis=1), method.deterministic)
