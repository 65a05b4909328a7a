"""Confidences made into chances: fitted on the validation split, judged on another, stored beside the adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from triagekit.errors import TriageError
from triagekit.evaluation.calibration import abstention_at_thresholds, calibration
from triagekit.evaluation.table import PredictionTable
from triagekit.schema.schema import Schema
from triagekit.schema.subset import select_fields
from triagekit.scoring.confidence_map import (
    ConfidenceMap,
    StoredCalibration,
    log_odds,
    read_calibration,
    write_calibration,
)
from triagekit.scoring.decoding_mode import DecodingMode

MINIMUM_ROWS = 50
"""With fewer tickets, the error of the fit is as large as what it would mend."""
_RIDGE = 1e-3
THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99)


def fit_confidence_map(confidence: np.ndarray, correct: np.ndarray) -> ConfidenceMap:
    """The map of least cross-entropy from confidences to whether they were right, both of shape (n,); NaN is left out.

    Two numbers and no more (Platt 1999, on log odds): a validation split has a few hundred tickets, and isotonic
    regression (Zadrozny & Elkan 2002) overfits below about a thousand (Niculescu-Mizil & Caruana, Predicting Good
    Probabilities with Supervised Learning, ICML 2005), with whole stretches at 0 or 1. A temperature alone (Guo et al.,
    ICML 2017) cannot move a confidence of one half, and needs the scores of all labels, which a decoder that asks for
    one piece of a value after another does not have. Targets are Platt's (n₊+1)/(n₊+2) and 1/(n₋+2), so that a split
    without mistakes does not promise certainty. Raises TriageError with fewer than 50 tickets.
    """
    known = np.isfinite(confidence)
    if known.sum() < MINIMUM_ROWS:
        raise TriageError(
            f"Calibration needs at least {MINIMUM_ROWS} tickets with a confidence; there are {int(known.sum())}. "
            "Prepare the data with a larger validation split."
        )
    odds = np.array([log_odds(float(value)) for value in confidence[known]])
    right = correct[known].astype(bool)
    targets = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        scores = values[0] * odds + values[1]
        # The ridge towards "as the model says" only settles what the data leaves open, e.g. all confidences the same.
        away = values - np.array([1.0, 0.0])
        cost = np.logaddexp(0.0, scores) - targets * scores
        slack = 0.5 * (1.0 + np.tanh(scores / 2)) - targets
        gradient = np.array([(slack * odds).sum(), slack.sum()]) + _RIDGE * away
        return float(cost.sum() + 0.5 * _RIDGE * (away**2).sum()), gradient

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.0, None), (None, None)])
    return ConfidenceMap(float(found.x[0]), float(found.x[1]))


def fit_calibration(
    schema: Schema,
    table: PredictionTable,
    adapter_fingerprint: str,
    data_fingerprint: str,
    split: str,
    mode: DecodingMode | None = None,
) -> StoredCalibration:
    """One map for each label field and one for the record. Raises TriageError for a schema without labels."""
    names = [field.name for field in schema.label_fields]
    if not names:
        raise TriageError(
            f"Schema '{schema.name}' has only free text: there are no labels whose confidence could be fitted."
        )
    return StoredCalibration(
        adapter_fingerprint=adapter_fingerprint,
        schema_fingerprint=schema.fingerprint,
        data_fingerprint=data_fingerprint,
        split=split,
        rows=len(table),
        fields={name: fit_confidence_map(table.confidence[name], table.correct(name)) for name in names},
        record=fit_confidence_map(table.record_confidence(names), table.all_correct(names)),
        mode=mode.calibration_name if mode else "",
    )


def calibration_effect(stored: StoredCalibration, table: PredictionTable) -> dict[str, Any]:
    """Calibration error before and after on tickets the maps have not seen, and what each threshold would give there.

    `thresholds`: coverage, accuracy of what is handled, and `expected_error`, which the calibrated chances imply.
    """
    names = list(stored.fields)
    right = table.all_correct(names)
    raw = table.record_confidence(names)
    record = _mapped(stored.record, raw)
    thresholds = abstention_at_thresholds(record, right, THRESHOLDS)
    for item in thresholds:
        handled = record[np.where(np.isfinite(record), record, -1.0) >= item["threshold"]]
        item["expected_error"] = float(1.0 - handled.mean()) if len(handled) else None
    return {
        "fitted_on": stored.split,
        "fitted_rows": stored.rows,
        "fingerprint": stored.fingerprint,
        "fields": {
            name: _before_and_after(
                table.confidence[name], _mapped(stored.fields[name], table.confidence[name]), table.correct(name)
            )
            for name in names
        },
        "record": _before_and_after(raw, record, right),
        "thresholds": thresholds,
    }


def calibrate_run(run: Path, **options: Any) -> StoredCalibration:
    """Fit on the validation split and write `<run>/calibration.json`, or that of the decoding mode; `options` go to
    evaluate_run, which decodes the split.

    The test split is never read here: it judges the fit. Raises TriageError for a split that is too small.
    """
    from triagekit.data.dataset import ProcessedDataset
    from triagekit.evaluation.evaluate import PREDICTIONS, data_folder, evaluate_run
    from triagekit.training.run_folder import RunFolder

    metrics = evaluate_run(run, split="val", free_sample=None, **options)
    folder = RunFolder.open(run)
    schema = ProcessedDataset.open(data_folder(folder, options.get("data"))).schema
    mode = DecodingMode.of(schema, options.get("precision", "auto"), options.get("fields"))
    if mode.fields is not None:
        schema = select_fields(schema, mode.fields)
    table, _ = PredictionTable.read(folder.evaluation("val") / mode.name / PREDICTIONS)
    stored = fit_calibration(schema, table, metrics["adapter_fingerprint"], metrics["data_fingerprint"], "val", mode)
    write_calibration(folder.folder, stored)
    return stored


def effect_of_stored(adapter: Path, split: str, table: PredictionTable, mode: DecodingMode) -> dict[str, Any] | None:
    """calibration_effect of the run's stored calibration; None without one, or on the split that it was fitted on."""
    try:
        stored = read_calibration(adapter, json.loads((adapter / "triagekit.json").read_text(encoding="utf-8")), mode)
    except TriageError:
        return None
    return None if stored.split == split else calibration_effect(stored, table)


def _mapped(confidence_map: ConfidenceMap, confidence: np.ndarray) -> np.ndarray:
    return np.array([confidence_map(value) if np.isfinite(value) else np.nan for value in confidence], dtype=float)


def _before_and_after(before: np.ndarray, after: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    return {"ece_before": calibration(before, correct)["ece"], "ece_after": calibration(after, correct)["ece"]}
