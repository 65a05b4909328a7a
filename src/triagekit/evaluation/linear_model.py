"""TF-IDF and a linear support vector machine: the model that a fine-tuned one has to beat to be worth its cost.

Words in runs of one and two, and characters in runs of two to five within words (robust against typos), both with
logarithmic counts. The margin is turned into probabilities by a softmax whose one temperature is fitted on the
validation split (C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion
from sklearn.svm import LinearSVC

MOST_FEATURES = 300_000
_TEXT_CUT = 20_000


def features() -> FeatureUnion:
    """The unfitted text features; a text is read up to 20,000 characters."""
    common: dict[str, Any] = {"sublinear_tf": True, "dtype": np.float32, "max_features": MOST_FEATURES}
    return FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **common)),
            ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **common)),
        ]
    )


def shorten(texts: Sequence[str]) -> list[str]:
    """Texts cut at 20,000 characters, and never without a character (TF-IDF refuses a vocabulary of nothing)."""
    return [text[:_TEXT_CUT] or "(empty)" for text in texts]


class LinearClassifier:
    """One label field. A field with one value in training always answers with it, at confidence 1."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._model: LinearSVC | None = None
        self._temperature = 1.0
        self.classes: list[str] = []

    def fit(self, matrix: sparse.csr_matrix, labels: Sequence[str]) -> LinearClassifier:
        """Learn from features of shape (rows, features) and one label a row."""
        self.classes = sorted(set(labels))
        if len(self.classes) > 1:
            place = {name: index for index, name in enumerate(self.classes)}
            self._model = LinearSVC(C=1.0, random_state=self._seed).fit(matrix, [place[name] for name in labels])
        return self

    def calibrate(self, matrix: sparse.csr_matrix, labels: Sequence[str]) -> None:
        """Fit the temperature on rows that were not trained on; labels unknown to the model are left out."""
        place = {name: index for index, name in enumerate(self.classes)}
        kept = [index for index, name in enumerate(labels) if name in place]
        if self._model is None or not kept:
            return
        margins = self._margins(matrix[kept])
        truth = np.array([place[labels[index]] for index in kept])

        def loss(log_temperature: float) -> float:
            scores = log_softmax(margins / np.exp(log_temperature), axis=1)
            return float(-scores[np.arange(len(truth)), truth].mean())

        self._temperature = float(np.exp(minimize_scalar(loss, bounds=(-5.0, 3.0), method="bounded").x))

    def predict(self, matrix: sparse.csr_matrix) -> tuple[list[str], np.ndarray]:
        """The likeliest label of each row and its probability, shape (rows,)."""
        count = matrix.shape[0]
        if self._model is None:
            return [self.classes[0]] * count, np.ones(count)
        chances = softmax(self._margins(matrix) / self._temperature, axis=1)
        best = chances.argmax(axis=1)
        return [self.classes[index] for index in best], chances[np.arange(count), best]

    def _margins(self, matrix: sparse.csr_matrix) -> np.ndarray:
        assert self._model is not None
        margins = np.asarray(self._model.decision_function(matrix))
        return np.column_stack([-margins, margins]) / 2 if margins.ndim == 1 else margins


class LinearTagger:
    """One tags field: a yes/no model for each tag, at most `max_items` of them said yes to, the surest first."""

    def __init__(self, values: Sequence[str], max_items: int, seed: int = 0) -> None:
        self._values = list(values)
        self._max_items = max_items
        self._seed = seed
        self._models: dict[str, LinearSVC | bool] = {}

    def fit(self, matrix: sparse.csr_matrix, tags: Sequence[Sequence[str]]) -> LinearTagger:
        """Learn from features of shape (rows, features) and the tags of each row."""
        for value in self._values:
            truth = np.array([value in own for own in tags])
            if truth.all() or not truth.any():
                self._models[value] = bool(len(truth) and truth.all())
            else:
                self._models[value] = LinearSVC(C=1.0, random_state=self._seed).fit(matrix, truth)
        return self

    def predict(self, matrix: sparse.csr_matrix) -> tuple[list[list[str]], np.ndarray]:
        """Tags of each row in declared order, and the product of the chances of every yes and no, shape (rows,)."""
        margins = np.column_stack(
            [
                np.full(matrix.shape[0], np.inf if model else -np.inf)
                if isinstance(model, bool)
                else model.decision_function(matrix)
                for model in self._models.values()
            ]
        )
        # expit(2m): the same scale as the two-class softmax above at temperature 1 with margins (-m, m).
        chances = expit(2 * margins)
        chosen: list[list[str]] = []
        for row in margins:
            surest = sorted(np.flatnonzero(row > 0), key=lambda index: -row[index])[: self._max_items]
            chosen.append([self._values[index] for index in sorted(surest)])
        return chosen, np.asarray(np.maximum(chances, 1 - chances).prod(axis=1))
