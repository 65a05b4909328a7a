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
    of training is unknown. `degrees`: of freedom of the t distribution used; infinite for "tickets".
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
    sides = [
        (1.0, np.asarray(first, dtype=float), first_deterministic),
        (-1.0, np.asarray(second, dtype=float), second_deterministic),
    ]
    per_ticket = sides[0][1].mean(axis=0) - sides[1][1].mean(axis=0)
    value, count = float(per_ticket.mean()), len(per_ticket)
    ticket_variance = float(per_ticket.var(ddof=1) / count) if count > 1 else 0.0
    variances = _seed_variances(sides)
    if not variances:
        return _one_seed_each(sides, per_ticket, ticket_variance, resamples, seed)
    error = float(_hierarchical_samples(sides, variances, resamples, seed).std(ddof=1))
    parts = [(ticket_variance, max(1, count - 1)), *variances]
    squares = sum(part**2 / degrees for part, degrees in parts)
    degrees = sum(part for part, _ in parts) ** 2 / squares if squares > 0 else float("inf")
    half = float(stats.t.ppf((1 + LEVEL) / 2, degrees)) * error
    p = float(2 * stats.t.sf(abs(value) / error, degrees)) if error > 0 else float(value == 0)
    seed_error = sum(variance for variance, _ in variances) ** 0.5
    return Difference(
        value, value - half, value + half, p, "tickets and seeds", ticket_variance**0.5, seed_error, degrees
    )


def _seed_variances(sides: list[tuple[float, np.ndarray, bool]]) -> list[tuple[float, float]]:
    """Variance of each trained side's mean over its seeds, with degrees of freedom; [] where no side has two seeds."""
    trained = [scores.mean(axis=1) for _, scores, deterministic in sides if not deterministic]
    known = [(float(means.var(ddof=1)), float(len(means) - 1)) for means in trained if len(means) > 1]
    if not known:
        return []
    return [
        (float(means.var(ddof=1)) / len(means), float(len(means) - 1)) if len(means) > 1 else known[0]
        for means in trained
    ]


def _one_seed_each(
    sides: list[tuple[float, np.ndarray, bool]],
    per_ticket: np.ndarray,
    ticket_variance: float,
    resamples: int,
    seed: int,
) -> Difference:
    value, low, high, p = paired_bootstrap(per_ticket, np.zeros_like(per_ticket), resamples, seed)
    if all(bool(np.isin(scores, (0.0, 1.0)).all()) for _, scores, _ in sides):
        p = mcnemar_exact(*discordant_counts(sides[0][1][0], sides[1][1][0]))
    return Difference(value, low, high, p, "tickets", ticket_variance**0.5, 0.0, float("inf"))


def _hierarchical_samples(
    sides: list[tuple[float, np.ndarray, bool]], variances: list[tuple[float, float]], resamples: int, seed: int
) -> np.ndarray:
    """Bootstrap samples, shape (resamples,), of the (difference of) seed-averaged means."""
    generator = np.random.default_rng([seed, 1])
    total = np.zeros(resamples)
    trained = iter(variances)
    for sign, scores, deterministic in sides:
        means = _ticket_samples(scores, resamples, seed)
        centre = means.mean(axis=1)
        if deterministic:
            total += sign * centre
            continue
        variance, _ = next(trained)
        seeds = len(scores)
        if seeds == 1:
            # Its own spread is unknown: the other method's stands in for it.
            total += sign * (centre + generator.normal(0.0, variance**0.5, resamples))
            continue
        drawn = generator.integers(0, seeds, size=(resamples, seeds))
        picked = np.take_along_axis(means, drawn, axis=1).mean(axis=1)
        total += sign * (centre + (seeds / (seeds - 1)) ** 0.5 * (picked - centre))
    return total


def _ticket_samples(scores: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over resampled tickets of each row of `scores` (rows, tickets): shape (resamples, rows)."""
    count = scores.shape[1]
    return np.vstack([weights @ scores.T / count for weights in resample_weights(count, resamples, seed)])
