"""Rows of a processed data set to token ids, labels and weights: once, before the first step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from triagekit.data.rows import Row
from triagekit.errors import Problem, ProblemsError, TriageError
from triagekit.modeling.segments import SegmentTokenizer, TokenisedExample
from triagekit.progress import Progress, SilentProgress
from triagekit.schema.schema import Schema
from triagekit.schema.subset import select_fields
from triagekit.training.collator import IGNORED
from triagekit.training.label_choices import balanced_weights, value_key

SHOWN = 20
"""Bad rows listed in one error; the rest are counted."""


@dataclass(frozen=True)
class Examples:
    """Tokenised rows: `columns` hold input_ids and labels (and weights, with class weights; and fields, where asked for:
    the schema field of each value token, -1 elsewhere), one list a row, and prefix_length: how many tokens at its
    beginning a row has in common with every other row of its prompt variant.

    `draw_weights`: how often each row is drawn, relatively; None where every row is shown once an epoch.
    """

    columns: dict[str, list[Any]]
    tickets_cut: int
    ticket_tokens_cut: int
    draw_weights: list[float] | None = None

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(ids) for ids in self.columns["input_ids"]]

    @property
    def trained_tokens(self) -> int:
        """Tokens that the loss is taken on."""
        return sum(label != IGNORED for labels in self.columns["labels"] for label in labels)

    def statistics(self) -> dict[str, Any]:
        """Row and token counts for plan.json."""
        lengths = sorted(self.lengths)
        return {
            "rows": len(lengths),
            "tokens": sum(lengths),
            "tokens_median": lengths[len(lengths) // 2],
            "tokens_p95": lengths[int(len(lengths) * 0.95)],
            "tokens_max": lengths[-1],
            "trained_tokens": self.trained_tokens,
            "tickets_cut": self.tickets_cut,
            "ticket_tokens_cut": self.ticket_tokens_cut,
        }


def choose_rows(rows: Sequence[Row], limit: int | None, seed: int) -> list[Row]:
    """All rows, or `limit` of them drawn by `seed`, in the order of the file."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def variant_of(index: int, seed: int, strategy: str, variants: int) -> int:
    """Which prompt variant row `index` is trained with: the variants take turns, the same in every epoch.

    `mixed` shows the explicit prompt (variant 0) to every second row and lets the short instructions take turns on the
    others, so that both kinds are learnt equally.
    """
    if strategy == "mixed" and variants > 1:
        return 0 if (index + seed) % 2 == 0 else 1 + (index + seed) // 2 % (variants - 1)
    return (index + seed) % variants


def fields_written(schema: Schema, count: int, labels_alone_share: float, seed: int) -> list[tuple[str, ...] | None]:
    """For each of `count` training rows the fields of its record: None, all of them, or for a share of the rows, drawn by
    `seed`, its labels alone. The same rows in every epoch.

    Raises TriageError where labels cannot stand alone: a schema that is free text or labels only, and the compact format with
    free text before a label.
    """
    if labels_alone_share == 0:
        return [None] * count
    if not schema.label_fields:
        raise TriageError(
            f"labels_alone_share is {labels_alone_share:g}, but schema '{schema.name}' has no labels. Set it to 0."
        )
    try:
        labels = select_fields(schema, [field.name for field in schema.label_fields]).field_names
    except ProblemsError as error:
        reasons = "; ".join(problem.message for problem in error.problems)
        raise TriageError(
            f"labels_alone_share is {labels_alone_share:g}, but records of schema '{schema.name}' cannot be written without "
            f"their free text: {reasons} Put the free text last in the schema, take "
            "prompt.record_format=json, or set the share to 0."
        ) from None
    if labels == schema.field_names:
        raise TriageError(
            f"labels_alone_share is {labels_alone_share:g}, but schema '{schema.name}' has no free text to leave out. "
            "Set it to 0."
        )
    chance = random.Random(f"labels alone {seed}")
    return [labels if chance.random() < labels_alone_share else None for _ in range(count)]


def build_examples(
    rows: Sequence[Row],
    segments: SegmentTokenizer,
    *,
    split: str,
    variants: Sequence[int],
    fields: Sequence[Sequence[str] | None] | None = None,
    weights: dict[str, dict[str, float]] | None = None,
    balance: str | None = None,
    with_fields: bool = False,
    progress: Progress | None = None,
) -> Examples:
    """Tokenise `rows`, row i with prompt variant `variants[i]`, its record with the fields `fields[i]` (None: all of them).

    `weights` maps field → value → weight of that field's value tokens; other tokens weigh 1. `balance` names the field
    whose values are to be drawn equally often.
    Raises ProblemsError listing the rows that cannot be trained on: a record that does not fit max_length even with
    an empty ticket, or a row in which no token is trained.
    """
    bar = progress or SilentProgress()
    bar.start(f"tokenise {split}", len(rows))
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "prefix_length": []}
    if weights:
        columns["weights"] = []
    if with_fields:
        columns["fields"] = []
    cut = tokens_cut = 0
    problems: list[Problem] = []
    for row, variant, written in zip(rows, variants, fields or [None] * len(rows), strict=True):
        try:
            example = segments.encode_example(row.text, row.record, variant, written)
        except TriageError as error:
            problems.append(Problem(f"{split} row {row.id}", str(error)))
            continue
        if not any(example.trained):
            problems.append(Problem(f"{split} row {row.id}", "no token of it would be trained."))
            continue
        columns["input_ids"].append(list(example.input_ids))
        columns["labels"].append(labels_of(example))
        columns["prefix_length"].append(len(segments.prefix_ids(variant)))
        if weights:
            columns["weights"].append(_token_weights(example, row, segments.schema, weights))
        if with_fields:
            columns["fields"].append(example.fields)
        cut += example.ticket_tokens_cut > 0
        tokens_cut += example.ticket_tokens_cut
        bar.advance()
    bar.finish()
    if problems:
        more = [Problem("", f"… and {len(problems) - SHOWN} more.")] if len(problems) > SHOWN else []
        raise ProblemsError(f"{len(problems)} of {len(rows)} {split} rows cannot be used:", [*problems[:SHOWN], *more])
    draw = balanced_weights([value_key(row.record.get(balance)) for row in rows]) if balance else None
    return Examples(columns, cut, tokens_cut, draw)


def labels_of(example: TokenisedExample) -> list[int]:
    """The token itself where it is trained, IGNORED elsewhere."""
    return [token if trained else IGNORED for token, trained in zip(example.input_ids, example.trained, strict=True)]


def _token_weights(
    example: TokenisedExample, row: Row, schema: Schema, weights: dict[str, dict[str, float]]
) -> list[float]:
    by_index = {
        index: weights[name].get(value_key(row.record.get(name)), 1.0)
        for index, name in enumerate(schema.field_names)
        if name in weights
    }
    return [
        by_index.get(field, 1.0) if trained else 0.0
        for field, trained in zip(example.fields, example.trained, strict=True)
    ]
