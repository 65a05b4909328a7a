"""What stands in the scores as a whole: how often each value, how sure, counted part by part and added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from triagekit.schema.fields import TagsField
from triagekit.schema.schema import Schema
from triagekit.scoring.part_columns import Columns
from triagekit.scoring.policy import RECORD_CONFIDENCE

BINS = 10
WHOLE_RECORD = "record"
NULL_VALUE = "(null)"
NO_TAGS = "(none)"
SHOWN_VALUES = 100
"""The most frequent values of a field that the manifest names; the others are counted together."""


class Tally:
    """Counts over the rows that have a record. Adding is exact, so the order of the parts does not matter."""

    def __init__(self) -> None:
        self._values: dict[str, Counter[str]] = {}
        self._bins: dict[str, list[int]] = {}

    def add(self, counted: Mapping[str, Any]) -> None:
        """Add what count_columns said of a part."""
        for name, counts in counted.get("values", {}).items():
            self._values.setdefault(name, Counter()).update(counts)
        for name, bins in counted.get("bins", {}).items():
            own = self._bins.setdefault(name, [0] * BINS)
            self._bins[name] = [before + more for before, more in zip(own, bins, strict=True)]

    def distribution(self) -> dict[str, Any]:
        """Field → number of distinct values, rows by value (most frequent first), rows of the values not named."""
        result = {}
        for name, counts in self._values.items():
            ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            result[name] = {
                "distinct": len(ordered),
                "values": dict(ordered[:SHOWN_VALUES]),
                "others": sum(count for _, count in ordered[SHOWN_VALUES:]),
            }
        return result

    def histogram(self) -> dict[str, list[int]]:
        """Rows by confidence in ten equal bins from 0 to 1, of each label field and of the whole record: its calibrated
        chance where there is one, else its least sure label."""
        return dict(self._bins)


def count_columns(schema: Schema, columns: Columns) -> dict[str, Any]:
    """`values` and `bins` of one part as plain JSON values."""
    rows = [place for place, verdict in enumerate(columns["verdict"]) if verdict != "error"]
    values: dict[str, Counter[str]] = {}
    bins: dict[str, list[int]] = {}
    for field in schema.label_fields:
        cells = [columns[field.name][place] for place in rows]
        if isinstance(field, TagsField):
            values[field.name] = Counter(tag for cell in cells for tag in (cell or [NO_TAGS]))
        else:
            values[field.name] = Counter(NULL_VALUE if cell is None else cell for cell in cells)
        bins[field.name] = _bins([columns[f"confidence_{field.name}"][place] for place in rows])
    if RECORD_CONFIDENCE in columns:
        bins[WHOLE_RECORD] = _bins([columns[RECORD_CONFIDENCE][place] for place in rows])
    elif schema.label_fields:
        names = [f"confidence_{field.name}" for field in schema.label_fields]
        known = [[columns[name][place] for name in names] for place in rows]
        bins[WHOLE_RECORD] = _bins([None if None in shares else min(shares) for shares in known])
    return {"values": {name: dict(counts) for name, counts in values.items()}, "bins": bins}


def _bins(confidences: list[float | None]) -> list[int]:
    counts = [0] * BINS
    for confidence in confidences:
        if confidence is not None:
            counts[min(BINS - 1, int(confidence * BINS))] += 1
    return counts
