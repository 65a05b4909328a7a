"""The report's figures, each an inline SVG. Methods keep one colour, marker and line style throughout."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from triagekit.compare.methods import EXACT_MATCH, Method
from triagekit.compare.statistics import Mean
from triagekit.compare.svg import INK, MUTED, SERIES, STYLE, SURFACE, inline_svg
from triagekit.evaluation.calibration import calibration

_MARKERS = "osD^vPX*"
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":")


def _style() -> AbstractContextManager[None]:
    return rc_context(STYLE)


def _look(index: int) -> dict[str, Any]:
    return {"color": SERIES[index % len(SERIES)], "marker": _MARKERS[index % len(_MARKERS)]}


def curves(methods: Sequence[Method], key: str, measure: str, name: str) -> str | None:
    """Train and validation curves of `measure` (a key of the metrics lines) over optimizer steps, one line a run.

    None where no run recorded it.
    """
    with _style():
        figure = Figure(figsize=(9.2, 3.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        drawn = 0
        for axis, split, title in zip(axes, ("train", "val"), ("training", "validation"), strict=True):
            for index, method in enumerate(methods):
                drawn += _draw_curves(axis, method, index, split, measure)
            axis.set_title(f"{name}, {title}")
            axis.set_xlabel("optimizer step")
            axis.margins(x=0.02)
        if not drawn:
            return None
        _legend(figure, [method.name for method in methods])
        return inline_svg(figure, key, html.escape(f"{name} over training steps, training and validation"))


def _draw_curves(axis: Axes, method: Method, index: int, split: str, measure: str) -> int:
    drawn = 0
    for number, run in enumerate(method.runs):
        points = sorted(
            (line["step"], line[measure])
            for line in run.lines
            if line.get("split") == split and isinstance(line.get(measure), int | float)
        )
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        marker = {"marker": _look(index)["marker"], "markersize": 4} if len(points) <= 25 else {}
        axis.plot(
            steps,
            values,
            color=_look(index)["color"],
            linestyle=_LINES[index % len(_LINES)],
            linewidth=1.5,
            alpha=max(0.45, 1 - 0.25 * number),
            **marker,
        )
        drawn += 1
    return drawn


def field_accuracy(scores: Mapping[str, Mapping[str, Mean]], key: str) -> str:
    """Dots with 95 % intervals: `scores[score][method]`, one band per score, one row per method in it."""
    names = list(dict.fromkeys(name for own in scores.values() for name in own))
    with _style():
        height = 1.0 + len(scores) * (0.16 * len(names) + 0.2)
        figure = Figure(figsize=(9.2, height), layout="constrained")
        axis = figure.subplots()
        step = 1 / (len(names) + 1.2)
        axis.set_yticks(range(len(scores)), labels=list(scores), color=INK)
        for band, own in enumerate(scores.values()):
            if band % 2 == 0:
                axis.axhspan(band - 0.5, band + 0.5, color=MUTED, alpha=0.07, linewidth=0)
            for index, name in enumerate(names):
                if name not in own:
                    continue
                place = band + (index - (len(names) - 1) / 2) * step
                value = own[name]
                axis.plot([100 * value.low, 100 * value.high], [place, place], color=_look(index)["color"], linewidth=2)
                axis.plot(100 * value.value, place, markersize=7, markeredgecolor=SURFACE, **_look(index))
        axis.set_ylim(len(scores) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("right, % of tickets (bars: 95 % interval)")
        _legend(figure, names)
        return inline_svg(figure, key, "Share right per field and method with 95 % intervals")


def reliability(methods: Sequence[Method], key: str) -> str | None:
    """Confidence against share right, of whole records, seeds pooled; None without confidences."""

    def draw(axis: Axes, method: Method, index: int) -> bool:
        confidence, correct = _pooled(method)
        bins = [item for item in calibration(confidence, correct, bins=10)["bins"] if item["count"]]
        if not bins:
            return False
        sizes = np.array([item["count"] for item in bins])
        xs = [100 * item["confidence"] for item in bins]
        ys = [100 * item["accuracy"] for item in bins]
        axis.plot(xs, ys, color=_look(index)["color"], linewidth=1.5, linestyle=_LINES[index % len(_LINES)])
        axis.scatter(
            xs,
            ys,
            s=12 + 90 * sizes / sizes.max(),
            color=_look(index)["color"],
            marker=_look(index)["marker"],
            zorder=3,
        )
        return True

    def frame(axis: Axes) -> None:
        axis.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axis.set_title("Is the confidence true?")
        axis.set_xlabel("confidence that all label fields are right, %")
        axis.set_ylabel("all label fields right, %")

    return _square(methods, key, "Reliability: confidence against share right", draw, frame)


def coverage(methods: Sequence[Method], key: str) -> str | None:
    """Share right among the surest tickets, as more and more tickets are handled; None without confidences."""

    def draw(axis: Axes, method: Method, index: int) -> bool:
        confidence, correct = _pooled(method)
        order = np.argsort(-confidence, kind="stable")[: int(np.isfinite(confidence).sum())]
        if not len(order):
            return False
        shares = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
        # The first few tickets say nothing about a share; drawing starts where it has some meaning.
        start = min(len(order) - 1, max(10, len(order) // 50))
        xs = 100 * np.arange(1, len(order) + 1) / len(confidence)
        shown = np.unique(np.linspace(start, len(order) - 1, 120).astype(int))
        axis.plot(
            xs[shown],
            100 * shares[shown],
            linewidth=2,
            linestyle=_LINES[index % len(_LINES)],
            color=_look(index)["color"],
        )
        return True

    def frame(axis: Axes) -> None:
        axis.set_title("Leave the unsure ones to people")
        axis.set_xlabel("handled by the model, surest first, % of tickets")
        axis.set_ylabel("of these all label fields right, %")
        axis.set_xlim(0, 102)

    return _square(methods, key, "Accuracy against coverage", draw, frame)


def _square(
    methods: Sequence[Method],
    key: str,
    title: str,
    draw: Callable[[Axes, Method, int], bool],
    frame: Callable[[Axes], None],
) -> str | None:
    with _style():
        figure = Figure(figsize=(4.5, 3.7), layout="constrained")
        axis = figure.subplots()
        frame(axis)
        drawn = [draw(axis, method, index) for index, method in enumerate(methods)]
        if not any(drawn):
            return None
        _legend(figure, [method.name for method in methods])
        return inline_svg(figure, key, title)


def _pooled(method: Method) -> tuple[np.ndarray, np.ndarray]:
    fields = [field.name for field in method.schema.label_fields]
    confidence = np.concatenate([table.record_confidence(fields) for table in method.tables])
    return confidence, method.scores(EXACT_MATCH).ravel()


def _legend(figure: Figure, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle=_LINES[index % len(_LINES)], linewidth=1.8, markersize=6, **_look(index))
        for index in range(len(names))
    ]
    figure.legend(handles, names, loc="outside lower left", ncols=min(4, len(names)), fontsize=9.5)
