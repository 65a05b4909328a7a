"""Macro-F1 of compared methods with intervals over tickets and seeds, and how far each is from one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from triagekit.compare.methods import Method
from triagekit.compare.statistics import SeedSamples, holm, sampled_difference
from triagekit.evaluation.classification import macro_f1_samples
from triagekit.evaluation.intervals import RESAMPLES
from triagekit.evaluation.metrics import field_labels
from triagekit.schema.fields import TagsField


def macro_f1_figures(
    methods: Sequence[Method], reference: str, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Method → `macro_f1_mean`, the mean over label fields with its interval, and `macro_f1_difference`, that minus the
    mean of `reference` on the same tickets, with Holm's p over all differences (None for `reference` and baselines).

    `methods` are on the same tickets (`Method.on`). Intervals are over tickets and seeds; for baselines, and with one
    seed each, over tickets.
    """
    samples = {method.name: samples_of(method, resamples, seed) for method in methods}
    tickets = len(methods[0].tables[0])
    nothing = SeedSamples(np.zeros(1), np.zeros((resamples, 1)), deterministic=True)
    others = [method.name for method in methods if method.name != reference and not method.deterministic]
    apart = [sampled_difference(samples[name], samples[reference], tickets, seed) for name in others]
    adjusted = holm([difference.p for difference in apart])
    differences = {
        name: {"from": reference, **difference.to_json(), "adjusted_p": p}
        for name, difference, p in zip(others, apart, adjusted, strict=True)
    }
    return {
        name: {
            "macro_f1_mean": within_bounds(sampled_difference(own, nothing, tickets, seed).to_json()),
            "macro_f1_difference": differences.get(name),
        }
        for name, own in samples.items()
    }


def samples_of(method: Method, resamples: int, seed: int) -> SeedSamples:
    """The mean over the method's fields of one label, averaged resample by resample."""
    values, samples = [], []
    for table in method.tables:
        found = []
        for field in method.schema.label_fields:
            if isinstance(field, TagsField):
                continue
            labels, gold, predicted = field_labels(field, table)
            found.append(macro_f1_samples(labels, gold, predicted, resamples, seed))
        values.append(float(np.mean([value for value, _ in found])))
        samples.append(np.mean([own for _, own in found], axis=0))
    return SeedSamples(np.array(values), np.stack(samples, axis=1), method.deterministic)


def within_bounds(figure: dict[str, Any]) -> dict[str, Any]:
    """Student's t knows nothing of 0 and 1. What asks whether the figure itself is zero is left out."""
    kept = {key: figure[key] for key in ("value", "covers", "ticket_error", "seed_error", "degrees")}
    return {**kept, "low": max(0.0, figure["low"]), "high": min(1.0, figure["high"])}
