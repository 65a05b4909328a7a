"""Division of rows into train, val and test, in units that must stay together. Never raises on rare labels."""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from pathlib import PurePosixPath

from triagekit.data.rows import SPLITS

OFFICIAL_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "test": "test",
    "testing": "test",
}
LARGE_UNIT = 0.1
"""A group of near-duplicates larger than this share of the smallest split would weigh too much in it."""


def random_split(
    units: Sequence[int],
    labels: Sequence[tuple[Hashable, ...]],
    val: float,
    test: float,
    seed: int,
    large_unit: float = LARGE_UNIT,
) -> list[str]:
    """Split names for rows; rows with the same number in `units` stay together.

    Stratified by systematic sampling: units are ordered by their labels, at random within equal labels, and each goes
    to the split that is furthest behind its share. Shares hold within a label as far as its count allows, and over all
    rows. Of each label value, one unit is kept for train, so that nothing is asked in test that train has never shown.
    Units larger than `large_unit` of the smallest split go to train. `val` and `test` get a row each where units allow.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, unit in enumerate(units):
        members[unit].append(row)
    total = len(units)
    shares = {"train": 1.0 - val - test, "val": val, "test": test}
    wanted = [split for split in ("train", "test", "val") if shares[split] > 0]
    smallest = min(shares[split] for split in wanted) * total
    # Random order by a keyed hash of the unit's content-free rank: the same on every machine and Python version.
    chance = {unit: _chance(seed, members[unit][0]) for unit in members}
    ordered = sorted(members, key=lambda unit: (_sortable(labels[members[unit][0]]), chance[unit]))
    fixed = _kept_for_train(ordered, members, labels, chance)
    assigned: dict[int, str] = {}
    counts = dict.fromkeys(SPLITS, 0)
    # A random start, or the first rows of every small label would always be train.
    done = 0
    offset = {split: _chance(seed, split) for split in wanted}
    for unit in ordered:
        size = len(members[unit])
        if unit in fixed or (size > 1 and size > max(1.0, large_unit * smallest)):
            split = "train"
        else:
            done_after = done + size
            split = max(wanted, key=lambda name: shares[name] * done_after - counts[name] + 0.5 * offset[name])
        assigned[unit] = split
        counts[split] += size
        done += size
    _fill_empty(assigned, members, wanted, chance)
    return [assigned[unit] for unit in units]


def _kept_for_train(
    ordered: Sequence[int],
    members: dict[int, list[int]],
    labels: Sequence[tuple[Hashable, ...]],
    chance: dict[int, float],
) -> set[int]:
    by_value: dict[tuple[int, Hashable], list[int]] = defaultdict(list)
    for unit in ordered:
        for row in members[unit]:
            for position, value in enumerate(labels[row]):
                holders = by_value[(position, value)]
                if not holders or holders[-1] != unit:
                    holders.append(unit)
    kept: set[int] = set()
    for _, holders in sorted(by_value.items(), key=lambda item: (len(item[1]), str(item[0]))):
        if not kept.intersection(holders) and (len(holders) < len(ordered) or len(ordered) == 1):
            kept.add(min(holders, key=lambda unit: chance[unit]))
    # With as many label values as rows nothing would be left to measure with: then chance decides.
    return kept if len(kept) <= len(ordered) / 2 else set()


def _fill_empty(
    assigned: dict[int, str], members: dict[int, list[int]], wanted: Sequence[str], chance: dict[int, float]
) -> None:
    """Give an empty split a unit of a split that has at least two; train first, then val, then test."""
    for split in [name for name in SPLITS if name in wanted]:
        if split in assigned.values():
            continue
        by_split: dict[str, list[int]] = defaultdict(list)
        for unit, name in assigned.items():
            by_split[name].append(unit)
        donors = [name for name in ("train", "test", "val") if len(by_split[name]) > 1]
        if donors:
            donor = max(donors, key=lambda name: (len(by_split[name]), name))
            moved = min(by_split[donor], key=lambda unit: (len(members[unit]), chance[unit]))
            assigned[moved] = split


def time_split(times: Sequence[datetime.datetime], val: float, test: float) -> list[str]:
    """Split names by time: the earliest rows are train, the latest test; rows of one moment stay together.

    The cuts are those between two moments that are nearest to the shares. `val` and `test` get a moment each where
    there are enough of them.
    """
    moments = sorted(set(times))
    ends = [0]
    for _, count in sorted(Counter(times).items()):
        ends.append(ends[-1] + count)
    total, last = len(times), len(moments)

    def cut(share_before: float, lowest: int, highest: int) -> int:
        """Number of moments before the cut."""
        return min(range(lowest, highest + 1), key=lambda number: (abs(ends[number] - share_before * total), number))

    # Each wanted split needs a moment; train comes first where there are too few.
    later = [share for share in (val, test) if share > 0][: max(0, last - 1)]
    first_test = cut(1 - test, len(later), last - 1) if test and len(later) == (2 if val else 1) else last
    first_val = cut(1 - val - test, 1, first_test - 1) if val and later else first_test
    names = dict.fromkeys(moments[:first_val], "train")
    names |= dict.fromkeys(moments[first_val:first_test], "val")
    names |= dict.fromkeys(moments[first_test:], "test")
    return [names[moment] for moment in times]


def official_name(value: str) -> str | None:
    """'train', 'val' or 'test' for a cell of a split column or the path of a file, else None."""
    text = value.strip().casefold()
    if text in OFFICIAL_NAMES:
        return OFFICIAL_NAMES[text]
    path = PurePosixPath(text)
    for part in (path.name.split(".")[0], *(parent.name for parent in path.parents)):
        if part in OFFICIAL_NAMES:
            return OFFICIAL_NAMES[part]
    return None


def parse_time(value: object, pattern: str | None = None) -> datetime.datetime:
    """A moment from a datetime, ISO 8601 text, epoch seconds, or text in `pattern` (strptime); UTC where none is named.

    Raises ValueError for anything else.
    """
    if isinstance(value, datetime.datetime):
        moment = value
    elif isinstance(value, datetime.date):
        moment = datetime.datetime(value.year, value.month, value.day)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            moment = datetime.datetime.fromtimestamp(value, datetime.UTC)
        except (OverflowError, OSError) as error:
            raise ValueError(f"{value} is no time in epoch seconds") from error
    elif isinstance(value, str) and value.strip():
        text = value.strip()
        moment = datetime.datetime.strptime(text, pattern) if pattern else datetime.datetime.fromisoformat(text)
    else:
        raise ValueError("there is no time")
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _chance(seed: int, item: object) -> float:
    digest = hashlib.blake2b(f"{seed}:{item}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _sortable(labels: tuple[Hashable, ...]) -> tuple[str, ...]:
    return tuple(str(label) for label in labels)
