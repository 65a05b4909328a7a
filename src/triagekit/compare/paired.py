"""Every pair of methods tested on the same tickets, and what came out in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from triagekit.compare.conditions import Conditions
from triagekit.compare.methods import EXACT_MATCH, Method
from triagekit.compare.statistics import (
    Difference,
    discordant_counts,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    seed_difference,
)
from triagekit.schema.fields import TextField

SIGNIFICANT = 0.05
Outcome = Literal["first", "second", "none"]


@dataclass(frozen=True)
class PairedTest:
    """One score of two methods: difference first − second, as a share of tickets (or of ROUGE-L).

    `per_seed` has, for every seed both methods have, McNemar's counts and p (0/1 scores only); `fixed_models` is the
    paired bootstrap over tickets for exactly the trained models at hand. `adjusted_p` is Holm's over the family.
    """

    first: str
    second: str
    score: str
    metric: str
    estimate: Difference
    fixed_models: dict[str, float]
    per_seed: list[dict[str, Any]]
    adjusted_p: float = 1.0

    @property
    def outcome(self) -> Outcome:
        """Which method is better beyond noise."""
        if self.adjusted_p >= SIGNIFICANT:
            return "none"
        return "first" if self.estimate.value > 0 else "second"

    @property
    def winner(self) -> str | None:
        """Name of the method that is better beyond noise."""
        return {"first": self.first, "second": self.second, "none": None}[self.outcome]

    def sentence(self) -> str:
        """The result in words."""
        points, low, high = (100 * value for value in (self.estimate.value, self.estimate.low, self.estimate.high))
        if self.outcome == "first":
            return f"{self.first} is better than {self.second} by {points:.1f} points [{low:.1f}, {high:.1f}]"
        if self.outcome == "second":
            return f"{self.second} is better than {self.first} by {-points:.1f} points [{-high:.1f}, {-low:.1f}]"
        return (
            f"no difference beyond noise between {self.first} and {self.second}: "
            f"{signed(points)} points [{signed(low)}, {signed(high)}], corrected p {self.adjusted_p:.2f}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "first": self.first,
            "second": self.second,
            "score": self.score,
            "metric": self.metric,
            **self.estimate.to_json(),
            "adjusted_p": self.adjusted_p,
            "outcome": self.outcome,
            "sentence": self.sentence(),
            "fixed_models": self.fixed_models,
            "per_seed": self.per_seed,
        }


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign and a true minus, for people."""
    return f"{value:+.{digits}f}".replace("-", "−")


def compare_pairs(methods: Sequence[Method], resamples: int, seed: int) -> list[PairedTest]:
    """Every pair of `methods` (the later named minus the earlier) on all label fields together (the main question) and on
    each field (the details).

    Main question and details are two families, each corrected by Holm: looking at many fields does not blur the answer
    to the question that was asked first.
    """
    return _adjusted(
        [
            _test(later, earlier, score, metric, resamples, seed)
            for earlier, later in combinations(methods, 2)
            for score, metric in scores_of(later)
        ]
    )


def compare_against(methods: Sequence[Method], reference: Method, resamples: int, seed: int) -> list[PairedTest]:
    """Each of `methods` against one reference (the best baseline), corrected as in `compare_pairs`."""
    return _adjusted(
        [
            _test(method, reference, score, metric, resamples, seed)
            for method in methods
            for score, metric in scores_of(method)
        ]
    )


def scores_of(method: Method) -> list[tuple[str, str]]:
    """(score, metric) of everything that is tested: exact match, accuracy of label fields, similarity of text fields."""
    fields = [
        (field.name, "similarity" if isinstance(field, TextField) else "accuracy") for field in method.schema.fields
    ]
    return [(EXACT_MATCH, "accuracy"), *fields]


def statements(tests: Sequence[PairedTest], conditions: Conditions) -> list[str]:
    """What can be said of each pair on all label fields together, with what it does not allow for."""
    said = []
    for test in tests:
        if test.score != EXACT_MATCH:
            continue
        sentence = f"On {EXACT_MATCH} together: {test.sentence()}."
        reasons = conditions.confounders(test.first, test.second)
        if reasons:
            sentence += (
                f" This cannot be put down to the method: {', '.join(reasons)} "
                f"{'differs' if len(reasons) == 1 else 'differ'} too."
            )
        if test.estimate.covers == "tickets":
            sentence += " One seed each: how much training itself varies is not known."
        others = [
            other
            for other in tests
            if (other.first, other.second) == (test.first, test.second)
            and other is not test
            and other.outcome != "none"
        ]
        if others:
            wins = [f"{other.score} ({other.winner} {signed(100 * abs(other.estimate.value))})" for other in others]
            sentence += f" By field, beyond noise: {', '.join(wins)}."
        said.append(sentence)
    return said


def _test(first: Method, second: Method, score: str, metric: str, resamples: int, seed: int) -> PairedTest:
    own, other = first.scores(score, metric), second.scores(score, metric)
    value, low, high, p = paired_bootstrap(own.mean(axis=0), other.mean(axis=0), resamples, seed)
    per_seed = []
    if bool(np.isin(own, (0.0, 1.0)).all()) and bool(np.isin(other, (0.0, 1.0)).all()):
        for label, left, right in _matched(first, second):
            only_first, only_second = discordant_counts(own[left], other[right])
            p_seed = mcnemar_exact(only_first, only_second)
            per_seed.append({"seed": label, "first_only": only_first, "second_only": only_second, "p": p_seed})
    return PairedTest(
        first.name,
        second.name,
        score,
        metric,
        seed_difference(own, other, first.deterministic, second.deterministic, resamples, seed),
        {"value": value, "low": low, "high": high, "p": p},
        per_seed,
    )


def _matched(first: Method, second: Method) -> list[tuple[str, int, int]]:
    """Pairs of tables to hold against each other: equal seeds, or each seed against the one table of a baseline."""
    seeds = [str(run.seed) for run in first.runs] or [""]
    other = [str(run.seed) for run in second.runs]
    if not other:
        return [(seed, index, 0) for index, seed in enumerate(seeds)]
    if len(seeds) == len(other) == 1:
        return [(seeds[0] if seeds == other else f"{seeds[0]} / {other[0]}", 0, 0)]
    return [(seed, index, other.index(seed)) for index, seed in enumerate(seeds) if seed in other]


def _adjusted(tests: list[PairedTest]) -> list[PairedTest]:
    adjusted = list(tests)
    for family in (True, False):
        places = [index for index, test in enumerate(tests) if (test.score == EXACT_MATCH) is family]
        for index, value in zip(places, holm([tests[index].estimate.p for index in places]), strict=True):
            adjusted[index] = replace(tests[index], adjusted_p=value)
    return adjusted
