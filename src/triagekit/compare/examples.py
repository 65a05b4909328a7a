"""The most instructive tickets: where methods were sure and wrong, and where they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from triagekit.compare.methods import Method
from triagekit.evaluation.table import label


def confident_mistakes(method: Method, count: int = 10) -> list[dict[str, Any]]:
    """The `count` wrong label values of the method's first seed with the highest confidence, one per ticket.

    Each: id, field, gold, predicted, confidence, text. Empty where no confidences were stored.
    """
    table = method.tables[0]
    there = table.has_record()
    best: dict[int, tuple[float, str]] = {}
    for field in method.schema.label_fields:
        wrong = ~table.correct(field.name) & there & np.isfinite(table.confidence[field.name])
        for index in np.flatnonzero(wrong):
            confidence = float(table.confidence[field.name][index])
            if int(index) not in best or confidence > best[int(index)][0]:
                best[int(index)] = (confidence, field.name)
    ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[:count]
    return [
        {
            "id": table.ids[index],
            "field": field,
            "gold": label(table.gold[field][index]),
            "predicted": label(table.predicted[field][index]),
            "confidence": confidence,
            "text": table.texts[index],
        }
        for index, (confidence, field) in ranked
    ]


def disagreements(first: Method, second: Method, count: int = 5) -> list[dict[str, Any]]:
    """Tickets on which one method got most more fields right than the other, averaged over seeds; `count` each way."""
    fields = [field.name for field in first.schema.label_fields]
    if not fields:
        return []
    gains = sum((first.scores(name).mean(axis=0) - second.scores(name).mean(axis=0)) for name in fields)
    assert isinstance(gains, np.ndarray)
    order: Sequence[int] = np.argsort(-gains, kind="stable").tolist()
    chosen = [index for index in order[:count] if gains[index] > 0]
    chosen += [index for index in reversed(order[-count:]) if gains[index] < 0]
    left, right = first.tables[0], second.tables[0]
    return [
        {
            "id": left.ids[index],
            "better": first.name if gains[index] > 0 else second.name,
            "text": left.texts[index],
            "fields": [
                {
                    "field": name,
                    "gold": label(left.gold[name][index]),
                    first.name: label(left.predicted[name][index], left.verdicts[index] != "error"),
                    second.name: label(right.predicted[name][index], right.verdicts[index] != "error"),
                }
                for name in fields
                if not (bool(left.correct(name)[index]) and bool(right.correct(name)[index]))
            ],
        }
        for index in chosen
    ]
