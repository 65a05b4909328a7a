"""Metrics as rows of text, for the terminal and the notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Table = tuple[list[str], list[list[str]]]
"""Column heads and rows."""


def share_text(figure: Mapping[str, Any] | None, digits: int = 1) -> str:
    """A share with its interval, e.g. `87.3 % [85.1, 89.4]`; `–` where there is none."""
    if figure is None or figure.get("value") is None:
        return "–"
    text = f"{figure['value']:.{digits}%}".replace("%", " %")
    if figure.get("low") is None:
        return text
    return f"{text} [{100 * figure['low']:.{digits}f}, {100 * figure['high']:.{digits}f}]"


def number_text(figure: Mapping[str, Any] | None, digits: int = 2) -> str:
    """A plain figure with its interval, e.g. `0.31 [0.28, 0.35]`."""
    if figure is None or figure.get("value") is None:
        return "–"
    text = f"{figure['value']:.{digits}f}"
    return text if figure.get("low") is None else f"{text} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def overall_rows(metrics: Mapping[str, Any]) -> Table:
    """All-fields exact match, validity, calibration."""
    free = metrics.get("valid_before_constraint")
    rows = [
        ["all label fields right", share_text(metrics["exact_match"])],
        ["valid records", share_text(metrics["valid"])],
    ]
    if free:
        rows.append([f"valid without the constraint ({free['rows']} tickets)", share_text(free)])
    error = metrics["record_calibration"]["ece"]
    rows.append(["calibration error of the record's confidence", "–" if error is None else f"{error:.3f}"])
    return ["", "value [95 % interval]"], rows


def field_rows(metrics: Mapping[str, Any]) -> Table:
    """One row per field."""
    rows = []
    for name, values in metrics["fields"].items():
        notes = []
        if "similarity" in values:
            notes.append(f"ROUGE-L {number_text(values['similarity'])}")
        if "mean_distance" in values:
            notes.append(
                f"distance {number_text(values['mean_distance'])}, within one {share_text(values['within_one'])}"
            )
        if "set_f1" in values:
            notes.append(f"set F1 {number_text(values['set_f1'])}")
        error = metrics["calibration"].get(name, {}).get("ece")
        rows.append(
            [
                name,
                share_text(values["accuracy"]),
                share_text(values.get("macro_f1")),
                "–" if error is None else f"{error:.3f}",
                "; ".join(notes),
            ]
        )
    return ["field", "accuracy", "macro-F1", "ECE", "also"], rows


def abstention_rows(metrics: Mapping[str, Any]) -> Table:
    """What is right when only the surest tickets are handled by the model; tickets of equal confidence go together."""
    chosen: dict[float, Mapping[str, Any]] = {}
    for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5):
        for item in sorted(metrics["abstention"], key=lambda item: abs(item["coverage"] - share))[:1]:
            chosen[item["threshold"]] = item
    rows = [
        [
            f"{item['coverage']:.0%}",
            f"{item['threshold']:.3f}",
            "–" if item["accuracy"] is None else f"{item['accuracy']:.1%}",
        ]
        for item in chosen.values()
    ]
    return ["handled by the model", "confidence at least", "of these all fields right"], rows


def slice_rows(metrics: Mapping[str, Any]) -> Table:
    """Exact match per slice."""
    rows = [
        [f"{column} = {value}", f"{part['rows']:,}", share_text(part["exact_match"])]
        for column, values in metrics["slices"].items()
        for value, part in list(values.items())[:8]
    ]
    return ["slice", "tickets", "all label fields right"], rows


def calibrated_rows(metrics: Mapping[str, Any]) -> tuple[Table, Table]:
    """Calibration error with and without the stored calibration, and what each `--auto-at` would give here."""
    effect = metrics.get("calibrated")
    if not effect:
        return ([], []), ([], [])
    errors = [
        [name, _three(values["ece_before"]), _three(values["ece_after"])]
        for name, values in [*effect["fields"].items(), ("the whole record", effect["record"])]
    ]
    thresholds = [
        [
            f"{item['threshold']:.2f}",
            f"{item['coverage']:.1%}",
            "–" if item["accuracy"] is None else f"{1 - item['accuracy']:.1%}",
            "–" if item["expected_error"] is None else f"{item['expected_error']:.1%}",
        ]
        for item in effect["thresholds"]
    ]
    heads = ["--auto-at", "handled by the model", "of these wrong", "expected by the confidence"]
    return (["confidence of", "ECE raw", "ECE calibrated"], errors), (heads, thresholds)


def mode_rows(metrics: Mapping[str, Any]) -> Table:
    """How records of a decoding mode differ from the usual ones of the same tickets; empty where they were not compared."""
    found = metrics.get("beside_usual")
    if not found:
        return [], []
    named = [*found["fields"].items(), *([("all label fields", found["labels"])] if found["labels"] else [])]
    rows = [[name, share_text(values["same"]), points_text(values["difference"])] for name, values in named]
    return ["field", "same value as usual", "right more often by, points"], rows


def points_text(figure: Mapping[str, Any], digits: int = 1) -> str:
    """A difference of shares in points with its interval, e.g. `-0.4 [-1.2, 0.3]`."""
    value, low, high = (round(100 * figure[part], digits) + 0.0 for part in ("value", "low", "high"))
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
