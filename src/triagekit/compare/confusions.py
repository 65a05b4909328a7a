"""Confusion matrices as tables: which label is taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from triagekit.compare.comparison import Comparison
from triagekit.compare.markup import Markup, details, join, paragraph, section, text
from triagekit.compare.methods import Method
from triagekit.evaluation.classification import confusion, label_order
from triagekit.evaluation.metrics import field_labels
from triagekit.schema.fields import Field, TagsField

MOST_LABELS = 12
"""Labels of one field shown by themselves; the rarer ones are pooled. The JSON has them all."""


def confusion_section(comparison: Comparison) -> Markup:
    """A foldable part for each label field, with a matrix for each method; empty where no field has one."""
    parts: list[Markup] = []
    for field in comparison.schema.label_fields:
        if isinstance(field, TagsField):
            continue
        matrices = [
            f"<div><h3>{text(method.name)}</h3>{confusion_table(*pooled_confusion(method, field))}</div>"
            for method in comparison.methods
        ]
        parts.append(details(field.name, f'<div class="matrices">{join(matrices)}</div>', is_open=not parts))
    if not parts:
        return Markup("")
    note = paragraph(
        "Rows: what the ticket is; columns: what it was taken for; cells: % of the row, seeds pooled. Blue: right, "
        f"orange: wrong. At most {MOST_LABELS} labels are shown, the rarer ones together.",
        "note",
    )
    return section("confusions", "What is taken for what", note, *parts)


def pooled_confusion(method: Method, field: Field, most: int = MOST_LABELS) -> tuple[list[str], np.ndarray]:
    """Labels and counts (gold, predicted) over all seeds; beyond `most` labels the rarest in gold become one."""
    gold: list[str] = []
    predicted: list[str] = []
    order: list[str] = []
    for table in method.tables:
        labels, own_gold, own_predicted = field_labels(field, table)
        order = label_order([*order, *labels], [*order, *labels], [])
        gold += own_gold
        predicted += own_predicted
    if len(order) > most:
        counts = {name: gold.count(name) for name in order}
        kept = sorted(order, key=lambda name: -counts[name])[: most - 1]
        other = f"({len(order) - len(kept)} others)"
        gold = [name if name in kept else other for name in gold]
        predicted = [name if name in kept else other for name in predicted]
        order = [*(name for name in order if name in kept), other]
    return order, confusion(order, gold, predicted)


def confusion_table(labels: Sequence[str], matrix: np.ndarray) -> Markup:
    """One matrix; a cell's colour grows with its share of the row."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in [*labels, "tickets"])
    rows = []
    for index, name in enumerate(labels):
        count = int(matrix[index].sum())
        cells = []
        for column in range(len(labels)):
            share = matrix[index, column] / count if count else 0.0
            if share == 0:
                cells.append('<td class="none">·</td>')
            else:
                kind = "hit" if column == index else "miss"
                # Mistakes are rare: the square root makes a few per cent of them visible.
                strength = share if kind == "hit" else share**0.5
                shown = f"{100 * share:.0f}" if share >= 0.005 else "<1"
                cells.append(f'<td class="{kind}" style="--share: {strength:.3f}">{text(shown)}</td>')
        rows.append(f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}<td class="none">{count:,}</td></tr>')
    return Markup(
        f'<div class="wide"><table class="confusion"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
