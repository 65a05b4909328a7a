"""The report as one HTML page: no script, no network, light and dark by the reader's own setting."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from triagekit import __version__
from triagekit.compare.comparison import Comparison
from triagekit.compare.confusions import confusion_section
from triagekit.compare.examples import confident_mistakes, disagreements
from triagekit.compare.figures import coverage, curves, field_accuracy, reliability
from triagekit.compare.markup import Markup, details, figure, join, paragraph, section, text
from triagekit.compare.sections import (
    conditions_tables,
    confidence_table,
    cost_table,
    field_table,
    runs_table,
    slices_table,
    summary_table,
    tests_tables,
)
from triagekit.compare.ticket_tables import disagreement_table, mistakes_table

SOURCES = (
    "Intervals: Efron & Tibshirani, An Introduction to the Bootstrap (1993); tickets and seeds together: Davison & "
    "Hinkley, Bootstrap Methods and their Application (1997), with Student's t at the degrees of freedom of "
    "Satterthwaite (1946).",
    "Paired tests: McNemar (1947), exact; many tests at once: Holm (1979).",
    "Calibration: Guo et al., On Calibration of Modern Neural Networks (ICML 2017).",
    "Summary similarity: ROUGE-L, Lin (2004).",
)


def render_page(comparison: Comparison, title: str, created: datetime, command: str) -> str:
    """The whole page as text."""
    body = join(
        [
            _header(comparison, title, created),
            _verdict(comparison),
            section("summary", "Summary", summary_table(comparison), _seeds_note(comparison)),
            section("fields", "Field by field", *_fields(comparison)),
            section("tests", "Is the difference more than luck?", *_tests(comparison)),
            section("conditions", "Conditions", *conditions_tables(comparison)),
            section("cost", "What it cost", cost_table(comparison), _cost_note(comparison)),
            section("training", "Training", *_training(comparison)),
            section("confidence", "Confidence", *_confidence(comparison)),
            slices_table(comparison),
            confusion_section(comparison),
            section("mistakes", "Mistakes to look at", *_mistakes(comparison)),
            section("made", "How this was made", *_made(comparison, created, command)),
        ]
    )
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(comparison: Comparison, title: str, created: datetime) -> Markup:
    run = comparison.runs[0]
    base = run.summary.get("base") or run.config.get("base")
    meta = " · ".join(
        [
            f"{created:%-d %B %Y}",
            f"{comparison.tickets:,} tickets of the {comparison.split} split",
            f"data {run.config.get('data', '?')} ({run.summary.get('data_fingerprint', '?')})",
            f"schema {comparison.schema.name} ({comparison.schema.fingerprint})",
            f"base {base}",
        ]
    )
    return join(
        [
            '<header><p class="kicker">triagekit comparison</p>',
            f"<h1>{text(title)}</h1>",
            f'<p class="meta">{text(meta)}</p></header>',
        ]
    )


def _verdict(comparison: Comparison) -> Markup:
    conditions = comparison.conditions
    if len(comparison.methods) < 2:
        kind, lead = "good", "One method: nothing to compare it with but the baselines."
    elif conditions.comparable:
        what = sorted({item.name for item in conditions.differences if item.kind in ("method", "confound")})
        kind, lead = "good", f"Comparable: the methods differ only in {', '.join(what) or 'nothing'}."
    else:
        kind, lead = "warn", f"{conditions.verdict[0].upper()}{conditions.verdict[1:]}."
    points = "".join(f"<li>{text(said)}</li>" for said in comparison.statements)
    notes = "".join(f"<li>{text(note)}</li>" for note in comparison.notes)
    return join(
        [
            f'<div class="verdict {kind}" id="verdict"><p><strong>{text(lead)}</strong></p>',
            f"<ul>{points}{notes}</ul>" if points or notes else "",
            "</div>",
        ]
    )


def _seeds_note(comparison: Comparison) -> Markup:
    single = [method.name for method in comparison.methods if len(method.runs) == 1]
    note = "In brackets: 95 % intervals, for other tickets like these. Between seeds: standard deviation."
    if single:
        note += f" One seed only, so nothing is known of how much training varies: {', '.join(single)}."
    return paragraph(note, "note")


def _fields(comparison: Comparison) -> list[Markup]:
    scores = {score: own for score, own in comparison.estimates.items() if comparison.metric_of(score) == "accuracy"}
    return [
        figure(field_accuracy(scores, "fields"), "Share of tickets right. Bars: 95 % intervals."),
        field_table(comparison),
    ]


def _tests(comparison: Comparison) -> list[Markup]:
    parts = []
    if comparison.pairs:
        parts.append(tests_tables(comparison.pairs))
    if comparison.against_baseline:
        parts.append(
            details(f"Against the best baseline ({comparison.reference})", tests_tables(comparison.against_baseline))
        )
    parts.append(
        paragraph(
            "Every difference is on the same tickets, averaged over seeds. “Given these models” resamples tickets only: "
            "it holds for exactly the adapters at hand. McNemar counts the tickets that only one of two runs of equal seed "
            "got right. A difference counts as beyond noise where p, corrected for the number of tests (Holm; all label "
            "fields together and the single fields are two families), is below 0.05. With two seeds the interval is wide on "
            "purpose: two seeds say little about how much training varies.",
            "note",
        )
    )
    return parts


def _cost_note(comparison: Comparison) -> Markup:
    differing = any(item.name == "hardware" for item in comparison.conditions.differences)
    extra = " The hardware differs between runs: time, memory and rows/s cannot be compared." if differing else ""
    return paragraph(f"Means over the runs of a method; peak memory is the largest of them.{extra}", "note")


def _training(comparison: Comparison) -> list[Markup]:
    loss = curves(comparison.methods, "loss", "loss", "loss")
    accuracy = curves(comparison.methods, "token-accuracy", "token_accuracy", "token accuracy")
    caption = "One line a run; fainter: further seeds. Loss is the mean over the trained tokens."
    return [
        figure(loss, caption),
        figure(accuracy, "Share of the record's tokens that the model puts first, given the right ones before it."),
        details("Every run", runs_table(comparison)),
    ]


def _confidence(comparison: Comparison) -> list[Markup]:
    everyone = [*comparison.methods, *comparison.baselines]
    reliable = figure(
        reliability(everyone, "reliability"),
        "On the dotted line a confidence is right as often as it says. Larger dots: more tickets.",
    )
    covered = figure(
        coverage(everyone, "coverage"), "Read off how many tickets can go through at an accuracy you need."
    )
    return [
        Markup(f'<div class="pair">{reliable}{covered}</div>') if reliable or covered else Markup(""),
        confidence_table(comparison),
        paragraph("The confidence of a record is the product of its label fields' confidences.", "note"),
    ]


def _mistakes(comparison: Comparison) -> list[Markup]:
    parts = []
    for index, method in enumerate(comparison.methods):
        found = confident_mistakes(method)
        if found:
            parts.append(details(f"{method.name}: surest wrong answers", mistakes_table(found), is_open=index == 0))
    if len(comparison.methods) >= 2:
        first, second = comparison.methods[:2]
        found = disagreements(first, second)
        if found:
            parts.append(
                details(
                    f"{first.name} against {second.name}: where they differ most",
                    disagreement_table(found, first, second),
                )
            )
    return parts or [paragraph("No mistakes with a confidence were found.")]


def _made(comparison: Comparison, created: datetime, command: str) -> list[Markup]:
    run = comparison.runs[0]
    versions = run.summary.get("versions")
    shown = ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else ""
    return [
        Markup(f"<pre>{text(command)}</pre>"),
        paragraph(
            f"{created:%Y-%m-%d %H:%M %Z} with triagekit {__version__}; {comparison.resamples:,} bootstrap resamples, "
            f"seed {comparison.seed}.{f' The runs: {shown}.' if shown else ''}"
        ),
        details(
            "Sources of the methods", Markup("<ul>" + "".join(f"<li>{text(line)}</li>" for line in SOURCES) + "</ul>")
        ),
    ]
