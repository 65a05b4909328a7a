"""Counts of gold against predicted labels, always by the label's name, never by its position among those present."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from triagekit.evaluation.intervals import RESAMPLES, interval, resample_weights


def label_order(declared: Sequence[str], gold: Sequence[str], predicted: Sequence[str]) -> list[str]:
    """Declared labels that occur, in declared order, then whatever else occurs, by name."""
    present = set(gold) | set(predicted)
    known = [name for name in dict.fromkeys(declared) if name in present]
    return known + sorted(present - set(known))


def confusion(labels: Sequence[str], gold: Sequence[str], predicted: Sequence[str]) -> np.ndarray:
    """Counts of shape (labels, labels): row = gold, column = predicted."""
    place = {name: index for index, name in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(matrix, ([place[name] for name in gold], [place[name] for name in predicted]), 1)
    return matrix


def per_class(labels: Sequence[str], matrix: np.ndarray) -> dict[str, dict[str, Any]]:
    """Precision, recall, F1, gold count and predicted count of each label.

    A ratio without a denominator (never predicted, never gold) is None; F1 of a label that is gold but never right is 0.
    """
    result = {}
    for index, name in enumerate(labels):
        hits, gold, predicted = int(matrix[index, index]), int(matrix[index].sum()), int(matrix[:, index].sum())
        result[name] = {
            "precision": hits / predicted if predicted else None,
            "recall": hits / gold if gold else None,
            "f1": 2 * hits / (gold + predicted) if gold else None,
            "gold": gold,
            "predicted": predicted,
        }
    return result


def macro_f1(hits: np.ndarray, gold: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mean F1 over the labels that occur in gold; counts of shape (…, labels), result (…). NaN where none occurs.

    A label that is only predicted is no class of its own here: it costs its tickets' true labels their recall.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(gold > 0, 2 * hits / (gold + predicted), 0.0)
        return np.asarray(f1.sum(axis=-1) / (gold > 0).sum(axis=-1))


def macro_f1_interval(
    labels: Sequence[str], gold: Sequence[str], predicted: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Macro-F1 with its bootstrap interval; each resample averages over the labels in its own gold."""
    return interval(*macro_f1_samples(labels, gold, predicted, resamples, seed))


def macro_f1_samples(
    labels: Sequence[str], gold: Sequence[str], predicted: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, np.ndarray]:
    """Macro-F1, and that of each bootstrap resample of the tickets, shape (resamples,); of no tickets NaN and shape (0,).

    The draws are those of `resample_weights`: two sets of predictions for the same tickets are paired resample by resample.
    """
    place = {name: index for index, name in enumerate(labels)}
    gold_places = np.array([place[name] for name in gold], dtype=int)
    predicted_places = np.array([place[name] for name in predicted], dtype=int)
    return _binary_macro_f1_samples(
        _one_hot(gold_places, len(labels)), _one_hot(predicted_places, len(labels)), resamples, seed
    )


def binary_macro_f1_interval(
    gold: sparse.csr_matrix, predicted: sparse.csr_matrix, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Macro-F1 over the columns of two 0/1 matrices of shape (tickets, labels); several labels a ticket are allowed."""
    return interval(*_binary_macro_f1_samples(gold, predicted, resamples, seed))


def _binary_macro_f1_samples(
    gold: sparse.csr_matrix, predicted: sparse.csr_matrix, resamples: int, seed: int
) -> tuple[float, np.ndarray]:
    if gold.shape[0] == 0:
        return float("nan"), np.empty(0)
    hits = gold.multiply(predicted).tocsr()
    parts = (hits, gold, predicted)
    value = macro_f1(*(np.asarray(part.sum(axis=0), dtype=float).ravel() for part in parts))
    samples = [
        macro_f1(*((part.T @ weights.T).T for part in parts))
        for weights in resample_weights(gold.shape[0], resamples, seed)
    ]
    return float(value), np.concatenate(samples)


def _one_hot(places: np.ndarray, width: int) -> sparse.csr_matrix:
    count = len(places)
    return sparse.csr_matrix((np.ones(count), (np.arange(count), places)), shape=(count, width))


def level_distances(levels: Sequence[str], gold: Sequence[Any], predicted: Sequence[Any]) -> np.ndarray:
    """|gold level − predicted level| per ticket of an ordered field, in levels.

    NaN where gold is not a level (null); the greatest possible distance where the prediction is not one.
    """
    place = {name: index for index, name in enumerate(levels)}
    distances = np.full(len(gold), np.nan)
    for index, (true, guess) in enumerate(zip(gold, predicted, strict=True)):
        if true in place:
            level = place[true]
            distances[index] = abs(level - place[guess]) if guess in place else max(level, len(levels) - 1 - level)
    return distances
