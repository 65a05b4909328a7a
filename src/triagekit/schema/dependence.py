"""Does the value of one column decide which values of another can occur?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from triagekit.schema.column_profile import ABSENT, ColumnProfile

EXPECTED_ROWS = 5.0
"""A pair is judged only if independent columns would give it at least this many rows (missing by chance: e⁻⁵ < 1 %)."""
NEARLY_ABSENT = 0.05
"""A pair counts as absent below this share of the rows expected: exports hold a few wrong labels."""
SHARE_ABSENT = 0.4
"""Share of the judged pairs that must be absent."""
MIN_PAIRS = 4
MIN_VALUES = 6
"""A shorter list of values gains nothing by being split, and may be a scale, which a split would destroy."""


def pair_counts(parent: ColumnProfile, child: ColumnProfile) -> Counter[tuple[int, int]]:
    """(code of the parent's value, code of the child's value) → rows, where both are present."""
    pairs = Counter(zip(parent.codes, child.codes, strict=True))
    return Counter({pair: count for pair, count in pairs.items() if ABSENT not in pair})


def share_absent(parent: ColumnProfile, child: ColumnProfile) -> float:
    """Of the pairs that would surely occur if the columns were independent, the share that (nearly) never does.

    0 for independent columns; near 1 for a tree such as category and subcategory; 0 where there are too few rows.
    """
    pairs = pair_counts(parent, child)
    total = pairs.total()
    of_parent: Counter[int] = Counter()
    of_child: Counter[int] = Counter()
    for (left, right), count in pairs.items():
        of_parent[left] += count
        of_child[right] += count
    judged = absent = 0
    for left, left_count in of_parent.items():
        for right, right_count in of_child.items():
            expected = left_count * right_count / total
            if expected >= EXPECTED_ROWS:
                judged += 1
                absent += pairs[left, right] <= NEARLY_ABSENT * expected
    return absent / judged if judged >= MIN_PAIRS else 0.0


def choices_left(parent: ColumnProfile, child: ColumnProfile) -> float:
    """How many values of `child` occur with a row's value of `parent`, on average over the rows."""
    pairs = pair_counts(parent, child)
    values = Counter(left for left, _ in pairs)
    return sum(count * values[left] for (left, _), count in pairs.items()) / max(pairs.total(), 1)


def propose_parents(columns: Sequence[ColumnProfile], given: Mapping[str, str]) -> dict[str, str]:
    """Child column → parent column, for the enum columns `columns`; what is `given` stays.

    A parent stands before its child in `columns` and has at most as many values; of several the one is taken that
    leaves the shortest list of values to choose from, on average over the rows.
    """
    parents = dict(given)
    for position, child in enumerate(columns):
        if child.column in parents or child.distinct < MIN_VALUES:
            continue
        lengths = {
            parent.column: choices_left(parent, child)
            for parent in columns[:position]
            if 1 < parent.distinct <= child.distinct
            and not _descends(parent.column, child.column, parents)
            and share_absent(parent, child) >= SHARE_ABSENT
        }
        if lengths:
            parents[child.column] = min(lengths, key=lengths.__getitem__)
    return parents


def _descends(column: str, ancestor: str, parents: Mapping[str, str]) -> bool:
    seen = set()
    at: str | None = column
    while at is not None and at not in seen:
        if at == ancestor:
            return True
        seen.add(at)
        at = parents.get(at)
    return False
