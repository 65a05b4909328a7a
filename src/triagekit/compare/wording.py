"""The comparison as rows of text, for the terminal and the notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triagekit.compare.markup import duration, percent, size, whole
from triagekit.compare.methods import EXACT_MATCH
from triagekit.evaluation.wording import Table, points_text, share_text


def main_rows(result: Mapping[str, Any]) -> Table:
    """One row a method or baseline, of what `compare_runs` returned: what counts most, and what it cost."""
    rows = [
        [
            own["name"],
            ", ".join(map(str, own.get("seeds", ()))),
            share_text(own["scores"][EXACT_MATCH]),
            whole(own.get("trainable")),
            duration(own.get("seconds")),
            size(own.get("peak_memory_bytes")),
        ]
        for own in [*result["methods"], *result["baselines"]]
    ]
    return ["method", "seeds", "all fields right", "trainable", "time", "memory"], rows


def score_rows(result: Mapping[str, Any], intervals: bool = True) -> Table:
    """One row a score, one column a method or baseline, in percent."""
    everyone = [*result["methods"], *result["baselines"]]

    def cell(figure: Mapping[str, Any]) -> str:
        return share_text(figure) if intervals else percent(figure["value"])

    rows = [[score, *(cell(own["scores"][score]) for own in everyone)] for score in everyone[0]["scores"]]
    return ["right, %", *(own["name"] for own in everyone)], rows


def cost_rows(result: Mapping[str, Any]) -> Table:
    """One row a method: trainable parameters, time, speed, memory, loss."""
    heads = ["method", "trainable", "of all", "steps", "time", "rows/s", "peak memory", "best val loss"]
    rows = [
        [
            own["name"],
            whole(own["trainable"]),
            "–" if own["share"] is None else f"{100 * own['share']:.2f} %",
            whole(own["steps"]),
            duration(own["seconds"]),
            "–" if own["rows_per_second"] is None else f"{own['rows_per_second']:.1f}",
            size(own["peak_memory_bytes"]),
            "–" if own["val_loss_best"] is None else f"{own['val_loss_best']:.4f}",
        ]
        for own in result["methods"]
    ]
    return heads, rows


def difference_rows(result: Mapping[str, Any]) -> Table:
    """One row a pair of methods and score: difference in points, corrected p, what follows."""
    rows = [
        [
            f"{test['first']} − {test['second']}",
            test["score"],
            points_text(test),
            f"{test['adjusted_p']:.3f}",
            test["sentence"],
        ]
        for test in [*result["tests"], *result["tests_against_baseline"]]
    ]
    return ["difference", "of", "points [95 %]", "p (Holm)", "in words"], rows


def condition_rows(result: Mapping[str, Any]) -> Table:
    """One row a difference in conditions: what kind it is, and each method's value."""
    names = [own["name"] for own in result["methods"]]
    rows = [
        [
            item["name"],
            "follows from the settings" if item["explained"] else item["kind"],
            *(item["values"][name] for name in names),
        ]
        for item in result["conditions"]["differences"]
    ]
    return ["what differs", "kind", *names], rows
