"""Macro-F1 of compared methods with intervals over tickets and seeds, and how far each is from one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from triagekit.compare.macro_f1 import method_macro_f1, one_label_fields
from triagekit.compare.methods import Method
from triagekit.compare.statistics import SeedSamples, holm, sampled_difference
from triagekit.evaluation.intervals import RESAMPLES


def macro_f1_figures(
    methods: Sequence[Method], reference: str, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Method → `macro_f1_mean`, the mean over label fields with its interval, and `macro_f1_difference`, that minus the
    mean of `reference` on the same tickets, with Holm's p over all differences (None for `reference` and baselines).

    `methods` are on the same tickets (`Method.on`). Intervals are over tickets and seeds; for baselines, and with one
    seed each, over tickets.
    """
    samples = {
        method.name: method_macro_f1(method, one_label_fields(method.schema), resamples, seed) for method in methods
    }
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


def within_bounds(figure: dict[str, Any]) -> dict[str, Any]:
    """Student's t knows nothing of 0 and 1. What asks whether the figure itself is zero is left out."""
    kept = {key: figure[key] for key in ("value", "covers", "ticket_error", "seed_error", "degrees")}
    return {**kept, "low": max(0.0, figure["low"]), "high": min(1.0, figure["high"])}
