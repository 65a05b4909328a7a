"""The tables of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from triagekit.compare.comparison import Comparison
from triagekit.compare.markup import (
    Markup,
    details,
    difference,
    duration,
    estimate,
    join,
    p_value,
    percent,
    section,
    size,
    table,
    text,
    whole,
)
from triagekit.compare.methods import EXACT_MATCH, Method
from triagekit.compare.paired import PairedTest, signed
from triagekit.compare.statistics import seed_mean

MOST_SLICES = 12
"""Values of one column shown, the most frequent ones."""

_KINDS = {
    "confound": Markup('<span class="tag warn">explains differences too</span>'),
    "method": Markup('<span class="tag good">the method</span>'),
    "chosen": Markup('<span class="tag good">chosen for each method on the validation split</span>'),
    "speed": Markup('<span class="tag">speed and memory only</span>'),
    "environment": Markup('<span class="tag">environment</span>'),
}
_EXPLAINED = Markup('<span class="tag">follows from the settings</span>')


def method_name(comparison: Comparison, method: Method) -> Markup:
    """Name with the colour it has in the figures."""
    names = [one.name for one in [*comparison.methods, *comparison.baselines]]
    number = names.index(method.name) % 8 + 1
    kind = ' <span class="tag">baseline</span>' if method.deterministic else ""
    return Markup(
        f'<span class="name"><span class="swatch" style="background: var(--series-{number})"></span>'
        f"{text(method.name)}{kind}</span>"
    )


def summary_table(comparison: Comparison) -> Markup:
    """One row a method: what counts most, first."""
    rows = []
    for method in [*comparison.methods, *comparison.baselines]:
        own = comparison.figures[method.name]
        score = comparison.estimates[EXACT_MATCH][method.name]
        rows.append(
            [
                method_name(comparison, method),
                ", ".join(str(run.seed) for run in method.runs) or None,
                estimate(score),
                None if score.spread is None else f"± {100 * score.spread:.1f}",
                percent(_field_mean(comparison, method)),
                percent(own["valid"]),
                percent(own.get("valid_before_constraint")),
                None if own["ece"] is None else f"{own['ece']:.3f}",
            ]
        )
    heads = [
        "method",
        "seeds",
        f"{EXACT_MATCH} right, %",
        "between seeds",
        "mean over label fields, %",
        "valid, %",
        "valid without constraint, %",
        "calibration error",
    ]
    return table(heads, rows, numeric=range(2, 8))


def cost_table(comparison: Comparison) -> Markup:
    """Trainable parameters, time, memory."""
    rows = []
    for method in comparison.methods:
        own = comparison.figures[method.name]
        share = own["share"]
        rows.append(
            [
                method_name(comparison, method),
                whole(own["trainable"]),
                None if share is None else f"{100 * share:.2f} %",
                whole(own["steps"]),
                duration(own["seconds"]),
                None if own["rows_per_second"] is None else f"{own['rows_per_second']:.1f}",
                size(own["peak_memory_bytes"]),
            ]
        )
    heads = ["method", "trainable parameters", "of all", "steps", "training time", "rows/s", "peak memory"]
    return table(heads, rows, numeric=range(1, 7))


def field_table(comparison: Comparison) -> Markup:
    """One row a score, one column a method."""
    everyone = [*comparison.methods, *comparison.baselines]
    rows = [
        [
            score if comparison.metric_of(score) == "accuracy" else f"{score} (ROUGE-L)",
            *(estimate(own.get(method.name)) for method in everyone),
        ]
        for score, own in comparison.estimates.items()
    ]
    rows.extend(_extra_rows(comparison, everyone))
    return table(
        ["right, %", *(method_name(comparison, method) for method in everyone)],
        rows,
        numeric=range(1, len(everyone) + 1),
    )


def _extra_rows(comparison: Comparison, everyone: Sequence[Method]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for name in [field.name for field in comparison.schema.label_fields]:
        known = comparison.macro_f1.get(name)
        rows.append(
            [
                f"{name}, macro-F1",
                *(
                    estimate(known[method.name])
                    if known
                    else percent(_mean_metric(comparison, method, name, "macro_f1"))
                    for method in everyone
                ),
            ]
        )
        for metric, shown in (("mean_distance", "mean distance, levels"), ("within_one", "at most one level off")):
            distances = [_mean_metric(comparison, method, name, metric) for method in everyone]
            if any(value is not None for value in distances):
                cells = [
                    None if value is None else f"{value:.2f}" if metric == "mean_distance" else percent(value)
                    for value in distances
                ]
                rows.append([f"{name}, {shown}", *cells])
    return rows


def _mean_metric(comparison: Comparison, method: Method, field: str, metric: str) -> float | None:
    values = [
        own["fields"][field][metric]["value"]
        for own in comparison.metrics[method.name]
        if metric in own["fields"][field]
    ]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def tests_tables(tests: Sequence[PairedTest]) -> Markup:
    """A table for each pair, one row a score."""
    pairs = dict.fromkeys((test.first, test.second) for test in tests)
    heads = ["", "difference, points [95 %]", "p (Holm)", "given these models", "McNemar, by seed", "so"]
    parts = []
    for pair in pairs:
        rows = [_test_row(test) for test in tests if (test.first, test.second) == pair]
        parts.append(table(heads, rows, numeric=(1, 2, 3), caption=f"{pair[0]} minus {pair[1]}"))
    return join(parts)


def _test_row(test: PairedTest) -> list[Any]:
    result = Markup('<span class="quiet">no difference beyond noise</span>')
    if test.winner:
        result = Markup(f'<span class="better">{text(test.winner)} better</span>')
    low, high = (signed(100 * test.fixed_models[key]) for key in ("low", "high"))
    counts = [
        f'<span class="interval">{text(item["seed"])}: {item["first_only"]} against {item["second_only"]}, '
        f"p {text(p_value(item['p']))}</span>"
        for item in test.per_seed
    ]
    return [
        test.score if test.metric == "accuracy" else f"{test.score} (ROUGE-L)",
        difference(test.estimate),
        p_value(test.adjusted_p),
        Markup(f'<span class="interval">[{low}, {high}]</span>'),
        Markup("<br>".join(counts)) if counts else None,
        result,
    ]


def conditions_tables(comparison: Comparison) -> list[Markup]:
    """What differs, and what is the same."""
    names = [method.name for method in comparison.methods]
    rows = [
        [
            item.name,
            _EXPLAINED if item.explained else _KINDS[item.kind],
            *(item.values[name] for name in names),
        ]
        for item in comparison.conditions.differences
    ]
    parts = [
        table(["what differs", "", *names], rows)
        if rows
        else Markup("<p>Nothing differs between the runs but the seed.</p>")
    ]
    same = comparison.conditions.same
    parts.append(details(f"The same everywhere ({len(same)})", table(["setting", "value"], same.items())))
    return parts


def runs_table(comparison: Comparison) -> Markup:
    """One row a run."""
    rows = []
    for method in comparison.methods:
        right = method.scores(EXACT_MATCH).mean(axis=1)
        for run, share in zip(method.runs, right, strict=True):
            summary = run.summary
            best = summary.get("val_loss_best")
            rows.append(
                [
                    Markup(f"<code>{text(run.folder)}</code>"),
                    run.seed,
                    whole(summary.get("steps")),
                    None if best is None else f"{best:.4f}",
                    percent(summary.get("token_accuracy_val")),
                    percent(float(share)),
                    duration(summary.get("seconds")),
                    size(summary.get("peak_memory_bytes")),
                ]
            )
    heads = ["run", "seed", "steps", "best val loss", "val token acc., %", "all fields right, %", "time", "peak memory"]
    return table(heads, rows, numeric=range(1, 8))


def confidence_table(comparison: Comparison) -> Markup:
    """Share right at several coverages."""
    rows = []
    for method in [*comparison.methods, *comparison.baselines]:
        listed = comparison.metrics[method.name][0]["abstention"]
        if listed:
            by_coverage = [
                min(listed, key=lambda item: abs(item["coverage"] - share)) for share in (1.0, 0.9, 0.8, 0.6, 0.4)
            ]
            rows.append(
                [
                    method_name(comparison, method),
                    *(f"{percent(item['accuracy'])} (≥ {item['threshold']:.2f})" for item in by_coverage),
                ]
            )
    if not rows:
        return Markup("<p>No confidences were stored.</p>")
    heads = ["right, % (threshold)", *(f"surest {share} %" for share in (100, 90, 80, 60, 40))]
    return table(heads, rows, numeric=range(1, 6), caption="First seed of each method.")


def slices_table(comparison: Comparison) -> Markup:
    """Exact match per slice; an empty text where the data has no such columns."""
    everyone = [*comparison.methods, *comparison.baselines]
    parts = []
    for column, values in everyone[0].tables[0].slices.items():
        rows = []
        for value, count in Counter(values).most_common(MOST_SLICES):
            places = [index for index, own in enumerate(values) if own == value]
            means = [
                seed_mean(method.scores(EXACT_MATCH)[:, places], comparison.resamples, comparison.seed)
                for method in everyone
            ]
            rows.append([value, whole(count), *map(estimate, means)])
        heads = [column, "tickets", *(method_name(comparison, method) for method in everyone)]
        parts.append(table(heads, rows, numeric=range(1, len(heads)), caption=f"{EXACT_MATCH} right, %"))
    return section("slices", "Who is served how well", *parts) if parts else Markup("")


def _field_mean(comparison: Comparison, method: Method) -> float | None:
    names = [field.name for field in comparison.schema.label_fields]
    values = [comparison.estimates[name][method.name].value for name in names]
    return sum(values) / len(values) if values else None
