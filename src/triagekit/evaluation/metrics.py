"""Every metric of one set of predictions. Each figure is over all tickets unless it says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from triagekit.data.rows import Row
from triagekit.evaluation.calibration import abstention_at_coverages, abstention_at_thresholds, calibration
from triagekit.evaluation.classification import (
    binary_macro_f1_interval,
    confusion,
    label_order,
    level_distances,
    macro_f1_interval,
    per_class,
)
from triagekit.evaluation.intervals import RESAMPLES, mean_intervals
from triagekit.evaluation.slices import slice_metrics
from triagekit.evaluation.table import NULL_LABEL, PredictionTable, label
from triagekit.evaluation.text_similarity import rouge_l, word_jaccard
from triagekit.schema.fields import EnumField, Field, TagsField, TextField
from triagekit.schema.schema import Schema


def evaluate_predictions(
    schema: Schema, gold: Sequence[Row], predicted: Sequence[Any], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Metrics of `predicted` (records or None, in the order of `gold`) as plain JSON values.

    Each figure is `{"value", "low", "high", "method"}` with a 95 % interval over tickets.
    """
    return evaluate_table(schema, PredictionTable.build(schema, gold, predicted), seed, resamples)


def evaluate_table(schema: Schema, table: PredictionTable, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """As `evaluate_predictions`, of a table that is already built or was read back from its Parquet file."""
    label_fields = [field.name for field in schema.label_fields]
    exact = table.all_correct(label_fields)
    columns: dict[str, np.ndarray] = {
        "exact_match": exact,
        "valid": np.array([verdict == "auto" for verdict in table.verdicts], dtype=float),
    }
    for field in schema.fields:
        for name, values in ticket_scores(field, table).items():
            columns[f"{field.name}/{name}"] = values
    means = mean_intervals(columns, resamples, seed)
    fields = {
        field.name: {
            **{key.split("/", 1)[1]: value for key, value in means.items() if key.startswith(f"{field.name}/")},
            **_counts(field, table, resamples, seed),
            "support": len(table),
            "kind": _kind(field),
        }
        for field in schema.fields
    }
    confidence = table.record_confidence(label_fields)
    return {
        "rows": len(table),
        "schema_fingerprint": schema.fingerprint,
        "exact_match": means["exact_match"],
        "valid": means["valid"],
        "valid_before_constraint": None,
        "fields": fields,
        "calibration": {name: calibration(table.confidence[name], table.correct(name)) for name in label_fields},
        "record_calibration": calibration(confidence, exact),
        "record_confidence": "product of the label fields' confidences",
        "abstention": abstention_at_coverages(confidence, exact),
        "abstention_thresholds": abstention_at_thresholds(confidence, exact),
        "slices": slice_metrics(table, label_fields, resamples, seed),
        "intervals": {"level": 0.95, "resamples": resamples, "seed": seed, "over": "tickets"},
    }


def ticket_scores(field: Field, table: PredictionTable) -> dict[str, np.ndarray]:
    """Per-ticket scores of one field, each of shape (n,); their means are the field's metrics."""
    there = table.has_record()
    gold, predicted = table.gold[field.name], table.predicted[field.name]
    scores: dict[str, np.ndarray] = {"accuracy": table.correct(field.name).astype(float)}
    if isinstance(field, TextField):
        pairs = [
            (str(true or ""), str(guess or "") if present else None)
            for true, guess, present in zip(gold, predicted, there, strict=True)
        ]
        scores["similarity"] = np.array([0.0 if guess is None else rouge_l(true, guess) for true, guess in pairs])
        scores["word_jaccard"] = np.array(
            [0.0 if guess is None else word_jaccard(true, guess) for true, guess in pairs]
        )
    elif isinstance(field, TagsField):
        scores["set_f1"] = np.array(
            [
                _set_f1(true, guess) if present else 0.0
                for true, guess, present in zip(gold, predicted, there, strict=True)
            ]
        )
    elif isinstance(field, EnumField) and field.ordered:
        guesses = [guess if present else None for guess, present in zip(predicted, there, strict=True)]
        distances = level_distances(field.values, gold, guesses)
        scores["mean_distance"] = distances
        scores["within_one"] = np.where(np.isfinite(distances), (distances <= 1).astype(float), np.nan)
    return scores


def field_labels(field: Field, table: PredictionTable) -> tuple[list[str], list[str], list[str]]:
    """Labels that occur (declared order first), gold labels, predicted labels of an enum field."""
    there = table.has_record()
    gold = [label(value) for value in table.gold[field.name]]
    predicted = [label(value, bool(ok)) for value, ok in zip(table.predicted[field.name], there, strict=True)]
    declared = () if isinstance(field, TextField) else field.values
    return label_order([*declared, NULL_LABEL], gold, predicted), gold, predicted


def _counts(field: Field, table: PredictionTable, resamples: int, seed: int) -> dict[str, Any]:
    if isinstance(field, TextField):
        return {}
    if isinstance(field, TagsField):
        return _tag_counts(field, table, resamples, seed)
    labels, gold, predicted = field_labels(field, table)
    matrix = confusion(labels, gold, predicted)
    return {
        "macro_f1": macro_f1_interval(labels, gold, predicted, resamples, seed),
        "classes": per_class(labels, matrix),
        "confusion": {"labels": labels, "matrix": matrix.tolist()},
    }


def _tag_counts(field: TagsField, table: PredictionTable, resamples: int, seed: int) -> dict[str, Any]:
    there = table.has_record()
    gold = [set(value or ()) for value in table.gold[field.name]]
    predicted = [
        set(value or ()) if ok else set() for value, ok in zip(table.predicted[field.name], there, strict=True)
    ]
    names = label_order(field.values, sorted(set().union(*gold)), sorted(set().union(*predicted)))
    place = {name: index for index, name in enumerate(names)}

    def binary(rows: list[set[str]]) -> sparse.csr_matrix:
        matrix = np.zeros((len(rows), len(names)))
        for index, tags in enumerate(rows):
            matrix[index, [place[name] for name in tags]] = 1.0
        return sparse.csr_matrix(matrix)

    true, guess = binary(gold), binary(predicted)
    classes = {}
    for name, index in place.items():
        hits = int(true[:, [index]].multiply(guess[:, [index]]).sum())
        golden, guessed = int(true[:, [index]].sum()), int(guess[:, [index]].sum())
        classes[name] = {
            "precision": hits / guessed if guessed else None,
            "recall": hits / golden if golden else None,
            "f1": 2 * hits / (golden + guessed) if golden else None,
            "gold": golden,
            "predicted": guessed,
        }
    return {"macro_f1": binary_macro_f1_interval(true, guess, resamples, seed), "classes": classes}


def _set_f1(gold: Any, predicted: Any) -> float:
    true, guess = set(gold or ()), set(predicted or ())
    return 2 * len(true & guess) / (len(true) + len(guess)) if true or guess else 1.0


def _kind(field: Field) -> str:
    if isinstance(field, TextField):
        return "text"
    if isinstance(field, TagsField):
        return "tags"
    return "ordered" if isinstance(field, EnumField) and field.ordered else "enum"
