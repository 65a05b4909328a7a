"""Whether a confidence of 0.9 is right nine times in ten, and what is won by leaving the unsure tickets to people.

Sources: C. Guo et al., On Calibration of Modern Neural Networks (ICML 2017): expected calibration error, reliability
diagram; R. El-Yaniv, Y. Wiener, On the Foundations of Noise-free Selective Classification (JMLR 2010): coverage and risk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 15
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Expected calibration error over `bins` equal-width bins, and the bins (empty ones have None for their means).

    Both arrays have shape (n,); tickets without a confidence (NaN) are left out and `count` says how many remain.
    """
    known = np.isfinite(confidence)
    confidence, right = confidence[known], correct[known].astype(float)
    count = len(confidence)
    edges = np.linspace(0.0, 1.0, bins + 1)
    # Bins are (low, high], the first includes 0: a confidence of exactly 1 belongs to the last.
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    listed = []
    error = 0.0
    for index in range(bins):
        inside = place == index
        size = int(inside.sum())
        mean = float(confidence[inside].mean()) if size else None
        accuracy = float(right[inside].mean()) if size else None
        if mean is not None and accuracy is not None:
            error += size / count * abs(accuracy - mean)
        listed.append(
            {
                "low": float(edges[index]),
                "high": float(edges[index + 1]),
                "count": size,
                "confidence": mean,
                "accuracy": accuracy,
            }
        )
    return {"ece": error if count else None, "count": count, "bins": listed}


def abstention_at_coverages(
    confidence: np.ndarray, correct: np.ndarray, coverages: Sequence[float] = COVERAGES
) -> list[dict[str, Any]]:
    """Accuracy on the surest tickets when about a share `coverages` of them is handled without a person.

    `threshold` is the lowest confidence still handled; tickets tied with it are handled too, so `coverage` may be more
    than was asked. Tickets without a confidence are never handled.
    """
    known = np.sort(confidence[np.isfinite(confidence)])[::-1]
    if len(known) == 0:
        return []
    wanted = [max(1, min(len(known), round(share * len(confidence)))) for share in coverages]
    return [_handled(confidence, correct, float(known[count - 1])) for count in wanted]


def abstention_at_thresholds(
    confidence: np.ndarray, correct: np.ndarray, thresholds: Sequence[float] = THRESHOLDS
) -> list[dict[str, Any]]:
    """Coverage and accuracy when only tickets with a confidence of at least each threshold are handled."""
    if not np.isfinite(confidence).any():
        return []
    return [_handled(confidence, correct, threshold) for threshold in thresholds]


def _handled(confidence: np.ndarray, correct: np.ndarray, threshold: float) -> dict[str, Any]:
    kept = np.where(np.isfinite(confidence), confidence, -1.0) >= threshold
    count = int(kept.sum())
    return {
        "threshold": threshold,
        "coverage": count / len(confidence) if len(confidence) else 0.0,
        "rows": count,
        "accuracy": float(correct[kept].mean()) if count else None,
    }
