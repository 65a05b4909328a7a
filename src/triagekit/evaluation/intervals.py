"""95 % intervals: percentile bootstrap over tickets, Wilson for proportions on which the bootstrap says nothing.

Sources: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), ch. 13 (percentile interval);
E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
Z = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""

SMALL_SAMPLE = 30
_CHUNK_CELLS = 4_000_000


def resample_weights(count: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each of `count` tickets was drawn, in blocks of shape (some resamples, count).

    The same (count, resamples, seed) always gives the same draws, so intervals of several metrics share them and paired
    differences can be taken draw by draw. Blocks keep memory near 32 MB whatever the number of tickets.
    """
    block = max(1, _CHUNK_CELLS // max(1, count))
    if resamples <= block:
        yield _single_block(count, resamples, seed)
        return
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, block):
        yield _draw(generator, count, min(block, resamples - start))


@lru_cache(maxsize=2)
def _single_block(count: int, resamples: int, seed: int) -> np.ndarray:
    # A report asks for the same draws a hundred times.
    weights = _draw(np.random.default_rng(seed), count, resamples)
    weights.flags.writeable = False
    return weights


def _draw(generator: np.random.Generator, count: int, resamples: int) -> np.ndarray:
    drawn = generator.integers(0, count, size=(resamples, count))
    drawn += np.arange(resamples)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)


def interval(value: float, samples: np.ndarray) -> dict[str, Any]:
    """`{"value", "low", "high", "method"}` from bootstrap samples of a metric; samples that are not a number are left out."""
    usable = samples[np.isfinite(samples)]
    if usable.size == 0:
        return {"value": _number(value), "low": None, "high": None, "method": "bootstrap"}
    low, high = np.quantile(usable, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": _number(value), "low": _number(low), "high": _number(high), "method": "bootstrap"}


def wilson(successes: float, count: int) -> dict[str, Any]:
    """Wilson score interval of `successes` out of `count`. Keeps a width at 0 % and 100 %, where a bootstrap has none."""
    if count == 0:
        return {"value": None, "low": None, "high": None, "method": "wilson"}
    share = successes / count
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return {
        "value": float(share),
        "low": float(max(0.0, min(share, centre - half))),
        "high": float(min(1.0, max(share, centre + half))),
        "method": "wilson",
    }


def mean_intervals(
    columns: dict[str, np.ndarray], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Interval of the mean of each per-ticket column (all of one length n); NaN marks a ticket a mean is not over.

    A column of only 0 and 1 is a proportion: where the bootstrap degenerates (all equal, or fewer than 30 tickets) its
    interval is Wilson's.
    """
    if not columns:
        return {}
    values = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns.values()])
    counted = np.isfinite(values)
    filled = np.where(counted, values, 0.0)
    present = counted.astype(np.float64)
    blocks = []
    if len(values):
        with np.errstate(invalid="ignore", divide="ignore"):
            blocks = [
                (weights @ filled) / (weights @ present) for weights in resample_weights(len(values), resamples, seed)
            ]
    samples = np.vstack(blocks) if blocks else np.empty((0, values.shape[1]))
    result = {}
    for index, name in enumerate(columns):
        own = values[counted[:, index], index]
        if own.size == 0:
            result[name] = {"value": None, "low": None, "high": None, "method": "bootstrap"}
        elif bool(np.isin(own, (0.0, 1.0)).all()) and (own.size < SMALL_SAMPLE or own.min() == own.max()):
            result[name] = wilson(float(own.sum()), int(own.size))
        else:
            result[name] = interval(float(own.mean()), samples[:, index])
    return result


def difference_intervals(
    columns: dict[str, np.ndarray], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Interval of the mean of each column of paired differences (-1, 0, 1; all of one length n).

    Where no ticket differs the bootstrap knows nothing: a difference either way is then as likely as Wilson allows for
    something that was never seen among n.
    """
    if not columns:
        return {}
    values = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns.values()])
    count = len(values)
    samples = np.vstack([weights @ values / count for weights in resample_weights(count, resamples, seed)])
    result = {}
    for index, name in enumerate(columns):
        result[name] = interval(float(values[:, index].mean()), samples[:, index])
        if not values[:, index].any():
            most = wilson(0, count)["high"]
            result[name] = {"value": 0.0, "low": -most, "high": most, "method": "wilson"}
    return result


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
