"""Tickets into splits such that no text stands, equal or nearly, in two of them: group, split, check, and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from triagekit.data.collect import LabelledTicket
from triagekit.data.duplicates import UnionFind, join_near_duplicates
from triagekit.data.leak_check import LeakReport, leak_check
from triagekit.data.pieces import Reject
from triagekit.data.rows import SPLITS
from triagekit.data.split_settings import SplitSettings
from triagekit.data.splits import LARGE_UNIT, random_split, time_split
from triagekit.errors import TriageError
from triagekit.progress import Progress

MAX_ROUNDS = 20
STRADDLES = "near-duplicate in a later split"


@dataclass(frozen=True)
class Arrangement:
    """Tickets by split, those left out, and what is known about near-duplicates."""

    splits: dict[str, list[LabelledTicket]]
    rejects: list[Reject]
    leaks: LeakReport
    duplicates: dict[str, Any]


def arrange(
    tickets: Sequence[LabelledTicket],
    settings: SplitSettings,
    method: str,
    threshold: float,
    label_fields: Sequence[str],
    progress: Progress | None = None,
) -> Arrangement:
    """Split `tickets` by `method`. Pairs that the check finds behind the grouping's back are joined and all is redone.

    Raises TriageError if leaks remain (which would be a fault of this program).
    """
    sets = UnionFind(len(tickets))
    texts = join_near_duplicates([ticket.normal for ticket in tickets], threshold, sets, progress)
    near = _group_figures(sets.roots(), tickets)
    if method == "group":
        sets.join_equal([ticket.group for ticket in tickets])
    joined_later = 0
    for _ in range(MAX_ROUNDS):
        names, rejects = _split(tickets, sets.roots(), settings, method, label_fields)
        positions: dict[str, list[int]] = {split: [] for split in SPLITS}
        for index, name in enumerate(names):
            if name is not None:
                positions[name].append(index)
        leaks = leak_check(
            {split: [tickets[index].row.text for index in rows] for split, rows in positions.items()},
            threshold,
            progress,
        )
        if not leaks.leaks:
            splits = {split: [tickets[index] for index in rows] for split, rows in positions.items()}
            return Arrangement(splits, rejects, leaks, {"texts": texts, **near, "joined_after_check": joined_later})
        for leak in leaks.leaks:
            first, second = (positions[split][position] for split, position in (leak.first, leak.second))
            joined_later += sets.find(first) != sets.find(second)
            sets.join(first, second)
    raise TriageError(
        f"{len(leaks.leaks)} texts still stand in two splits after {MAX_ROUNDS} rounds; please report it."
    )


def _split(
    tickets: Sequence[LabelledTicket],
    units: list[int],
    settings: SplitSettings,
    method: str,
    label_fields: Sequence[str],
) -> tuple[list[str | None], list[Reject]]:
    val, test = settings.shares()
    labels = [_stratum(ticket, settings.stratify, label_fields) for ticket in tickets]
    if method in ("random", "group"):
        # A group (customer, template family) is as large as it is; only one that alone outweighs a split goes to train.
        large = 1.0 if method == "group" else LARGE_UNIT
        return list(random_split(units, labels, val, test, settings.seed, large)), []
    if method == "time":
        names = time_split([_time_of(ticket) for ticket in tickets], val, test)
        return _without_straddlers(tickets, units, names)
    kept, rejects = _without_straddlers(tickets, units, [ticket.official or "train" for ticket in tickets])
    _carve(kept, units, labels, val, test, settings.seed)
    return kept, rejects


def _without_straddlers(
    tickets: Sequence[LabelledTicket], units: Sequence[int], names: Sequence[str]
) -> tuple[list[str | None], list[Reject]]:
    """Where the split is given (by time, by its makers), a row of an earlier split with a twin in a later one goes."""
    latest: dict[int, int] = {}
    for index, (unit, name) in enumerate(zip(units, names, strict=True)):
        if unit not in latest or SPLITS.index(name) > SPLITS.index(names[latest[unit]]):
            latest[unit] = index
    kept: list[str | None] = []
    rejects: list[Reject] = []
    for ticket, unit, name in zip(tickets, units, names, strict=True):
        twin = latest[unit]
        if names[twin] == name:
            kept.append(name)
            continue
        kept.append(None)
        detail = f"{name} row; {tickets[twin].row.id} in {names[twin]} belongs to the same group of near-duplicates"
        rejects.append(Reject(ticket.file, ticket.line, STRADDLES, ticket.row.text, detail, ticket.row.id))
    return kept, rejects


def _carve(
    names: list[str | None], units: Sequence[int], labels: Sequence[tuple[str, ...]], val: float, test: float, seed: int
) -> None:
    """Take val (and test) out of train where the official split has none."""
    present = set(names)
    val = 0.0 if "val" in present else val
    test = 0.0 if "test" in present else test
    if not val and not test:
        return
    rows = [index for index, name in enumerate(names) if name == "train"]
    chosen = random_split([units[index] for index in rows], [labels[index] for index in rows], val, test, seed)
    for index, name in zip(rows, chosen, strict=True):
        names[index] = name


def _stratum(ticket: LabelledTicket, stratify: tuple[str, ...] | None, label_fields: Sequence[str]) -> tuple[str, ...]:
    if stratify is None:
        return ticket.labels
    return tuple(ticket.labels[label_fields.index(name)] for name in stratify)


def _time_of(ticket: LabelledTicket) -> Any:
    if ticket.time is None:
        raise TriageError(f"Row {ticket.row.id} has no time.")
    return ticket.time


def _group_figures(roots: Sequence[int], tickets: Sequence[LabelledTicket]) -> dict[str, int]:
    sizes = Counter(roots)
    texts: dict[int, set[str]] = {}
    for root, ticket in zip(roots, tickets, strict=True):
        if sizes[root] > 1:
            texts.setdefault(root, set()).add(ticket.normal)
    near = [root for root, different in texts.items() if len(different) > 1]
    return {
        "near_groups": len(near),
        "rows_in_near_groups": sum(sizes[root] for root in near),
        "largest_group": max(sizes.values(), default=0),
    }
