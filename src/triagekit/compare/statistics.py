"""Paired statistics: is a difference between two methods more than the luck of these tickets and these seeds?

Sources: Q. McNemar, Note on the sampling error of the difference between correlated proportions (1947), exact form;
B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993); A. C. Davison, D. V. Hinkley, Bootstrap Methods and
their Application (1997), §3.8 (hierarchical resampling); F. E. Satterthwaite, An approximate distribution of estimates
of variance components (1946); S. Holm, A simple sequentially rejective multiple test procedure (1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from triagekit.evaluation.intervals import LEVEL, RESAMPLES, mean_intervals, resample_weights


@dataclass(frozen=True)
class Mean:
    """A seed-averaged mean with its 95 % interval over tickets, and the standard deviation between seeds (None: one)."""

    value: float
    low: float
    high: float
    spread: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """A difference of two seed-averaged means with its 95 % interval and two-sided p (of: there is no difference).

    `covers` says what they allow for: "tickets and seeds", or "tickets" where no method has two seeds, so that the noise
    of training is unknown. `degrees`: of freedom of the t distribution used; infinite where none is.
    """

    value: float
    low: float
    high: float
    p: float
    covers: str
    ticket_error: float
    seed_error: float
    degrees: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; infinite degrees of freedom as None."""
        return asdict(self) | {"degrees": None if np.isinf(self.degrees) else self.degrees}


@dataclass(frozen=True)
class SeedSamples:
    """A figure of each seed's predictions, shape (seeds,), and the same on each bootstrap resample of the tickets, shape
    (resamples, seeds); resamples are those of `resample_weights`, so that two figures of the same tickets are paired.

    `deterministic`: nothing was trained, so that there is no noise between seeds (baselines, constants).
    """

    values: np.ndarray
    samples: np.ndarray
    deterministic: bool = False


def mcnemar_exact(first_only: int, second_only: int) -> float:
    """Two-sided exact p of McNemar's test: tickets that only the first, and only the second method got right."""
    discordant = first_only + second_only
    return float(stats.binomtest(first_only, discordant, 0.5).pvalue) if discordant else 1.0


def discordant_counts(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Tickets that only the first is right on, and only the second; both of shape (tickets,)."""
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    return int((first & ~second).sum()), int((~first & second).sum())


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float, float]:
    """Difference of means first − second of two score arrays of shape (tickets,): value, low, high, two-sided p.

    Tickets are drawn with replacement, both methods' scores together. The interval is the percentile one and holds for
    exactly these trained models.
    """
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    samples = _ticket_samples(differences[None, :], resamples, seed)[:, 0]
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tail = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    return float(differences.mean()), float(low), float(high), min(1.0, 2 * (tail + 1) / (resamples + 1))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: reject where one is below 0.05, and the whole family keeps 5 %."""
    order = np.argsort(values)
    adjusted = np.empty(len(values))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = highest
    return [float(value) for value in adjusted]


def seed_mean(scores: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Mean:
    """Mean of scores of shape (seeds, tickets)."""
    averaged = np.asarray(scores, dtype=float).mean(axis=0)
    figure = mean_intervals({"mean": averaged}, resamples, seed)["mean"]
    spread = float(np.mean(scores, axis=1).std(ddof=1)) if len(scores) > 1 else None
    return Mean(figure["value"], figure["low"], figure["high"], spread)


def sampled_mean(figure: SeedSamples, tickets: int) -> Mean:
    """As `seed_mean`, of a figure between 0 and 1 that is no mean over `tickets`; for its interval see `sampled_difference`."""
    averaged = SeedSamples(figure.values.mean(keepdims=True), figure.samples.mean(axis=1, keepdims=True), True)
    nothing = SeedSamples(np.zeros(1), np.zeros((len(figure.samples), 1)), True)
    around = sampled_difference(averaged, nothing, tickets)
    spread = float(figure.values.std(ddof=1)) if len(figure.values) > 1 else None
    return Mean(around.value, max(0.0, around.low), min(1.0, around.high), spread)


def seed_difference(
    first: np.ndarray,
    second: np.ndarray,
    first_deterministic: bool = False,
    second_deterministic: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean of `first` minus mean of `second`, scores of shape (seeds, tickets) on the same tickets.

    The standard error comes from a hierarchical bootstrap: tickets are drawn for both methods together, seeds within
    each method, deviations between k seeds widened by sqrt(k/(k−1)) because drawing from so few understates them. Two
    or three seeds say little about how much seeds vary, so the interval is widened by Student's t with the Welch–
    Satterthwaite degrees of freedom. A method with one seed is taken to vary as much between seeds as the other one.
    Where no method has two seeds, interval and p are those of the paired bootstrap and (for 0/1 scores) of McNemar.
    """
    scores = [np.asarray(first, dtype=float), np.asarray(second, dtype=float)]
    sides = [
        SeedSamples(own.mean(axis=1), _ticket_samples(own, resamples, seed), deterministic)
        for own, deterministic in zip(scores, (first_deterministic, second_deterministic), strict=True)
    ]
    per_ticket = scores[0].mean(axis=0) - scores[1].mean(axis=0)
    count = len(per_ticket)
    ticket_variance = float(per_ticket.var(ddof=1) / count) if count > 1 else 0.0
    if variances := _seed_variances(sides):
        return _student_difference(sides, variances, ticket_variance, count, seed)
    value, low, high, p = paired_bootstrap(per_ticket, np.zeros_like(per_ticket), resamples, seed)
    if all(bool(np.isin(own, (0.0, 1.0)).all()) for own in scores):
        p = mcnemar_exact(*discordant_counts(scores[0][0], scores[1][0]))
    return Difference(value, low, high, p, "tickets", ticket_variance**0.5, 0.0, float("inf"))


def sampled_difference(first: SeedSamples, second: SeedSamples, tickets: int, seed: int = 0) -> Difference:
    """As `seed_difference`, of a figure that is no mean over tickets, such as macro-F1: `first` minus `second`, both of
    the same `tickets` tickets and resamples.

    The interval lies around the figure itself, also where no method has two seeds, and not at quantiles of the resamples:
    a rare label that a resample does not hold leaves the mean over labels, which shifts macro-F1 of all resamples.
    """
    sides = [first, second]
    ticket_variance = float((first.samples.mean(axis=1) - second.samples.mean(axis=1)).var(ddof=1))
    return _student_difference(sides, _seed_variances(sides), ticket_variance, tickets, seed)


def _student_difference(
    sides: list[SeedSamples], variances: list[tuple[float, float]], ticket_variance: float, tickets: int, seed: int
) -> Difference:
    value = float(sides[0].values.mean() - sides[1].values.mean())
    error = float(_hierarchical_samples(sides, variances, seed).std(ddof=1)) if variances else ticket_variance**0.5
    parts = [(ticket_variance, max(1, tickets - 1)), *variances]
    squares = sum(part**2 / degrees for part, degrees in parts)
    degrees = sum(part for part, _ in parts) ** 2 / squares if squares > 0 else float("inf")
    half = float(stats.t.ppf((1 + LEVEL) / 2, degrees)) * error
    p = float(2 * stats.t.sf(abs(value) / error, degrees)) if error > 0 else float(value == 0)
    seed_error = sum(variance for variance, _ in variances) ** 0.5
    covers = "tickets and seeds" if variances else "tickets"
    return Difference(value, value - half, value + half, p, covers, ticket_variance**0.5, seed_error, degrees)


def _seed_variances(sides: list[SeedSamples]) -> list[tuple[float, float]]:
    """Variance of each trained side's mean over its seeds, with degrees of freedom; [] where no side has two seeds."""
    trained = [side.values for side in sides if not side.deterministic]
    known = [(float(values.var(ddof=1)), float(len(values) - 1)) for values in trained if len(values) > 1]
    if not known:
        return []
    return [
        (float(values.var(ddof=1)) / len(values), float(len(values) - 1)) if len(values) > 1 else known[0]
        for values in trained
    ]


def _hierarchical_samples(sides: list[SeedSamples], variances: list[tuple[float, float]], seed: int) -> np.ndarray:
    """Bootstrap samples, shape (resamples,), of the difference of two seed-averaged figures."""
    generator = np.random.default_rng([seed, 1])
    resamples = len(sides[0].samples)
    total = np.zeros(resamples)
    trained = iter(variances)
    for sign, side in zip((1.0, -1.0), sides, strict=True):
        centre = side.samples.mean(axis=1)
        if side.deterministic:
            total += sign * centre
            continue
        variance, _ = next(trained)
        seeds = len(side.values)
        if seeds == 1:
            # Its own spread is unknown: the other method's stands in for it.
            total += sign * (centre + generator.normal(0.0, variance**0.5, resamples))
            continue
        drawn = generator.integers(0, seeds, size=(resamples, seeds))
        picked = np.take_along_axis(side.samples, drawn, axis=1).mean(axis=1)
        total += sign * (centre + (seeds / (seeds - 1)) ** 0.5 * (picked - centre))
    return total


def _ticket_samples(scores: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over resampled tickets of each row of `scores` (rows, tickets): shape (resamples, rows)."""
    count = scores.shape[1]
    return np.vstack([weights @ scores.T / count for weights in resample_weights(count, resamples, seed)])
