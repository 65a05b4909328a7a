"""Equal texts: of those with equal labels one stays; those with different labels are reported as conflicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from triagekit.data.collect import LabelledTicket
from triagekit.data.pieces import Reject
from triagekit.data.prepare_settings import DuplicateSettings
from triagekit.data.rows import SPLITS


@dataclass(frozen=True)
class EqualTexts:
    """What the look at equal texts found. `conflicts` are the lines of conflicts.jsonl."""

    kept: list[LabelledTicket]
    rejects: list[Reject]
    conflicts: list[dict[str, Any]]
    conflicting_rows: int
    duplicate_rows: int


def settle_equal_texts(
    tickets: Sequence[LabelledTicket], settings: DuplicateSettings, label_fields: Sequence[str]
) -> EqualTexts:
    """Drop repeated rows (as rejects) and list conflicts; the order of the kept rows is that of `tickets`.

    Of repeated rows the one in the latest split (official split) or of the latest time stays, else the first, so that
    a test set keeps its rows.
    """
    by_text: dict[str, list[int]] = defaultdict(list)
    for index, ticket in enumerate(tickets):
        by_text[ticket.normal].append(index)
    rejected: dict[int, Reject] = {}
    conflicts: list[dict[str, Any]] = []
    conflicting_rows = duplicate_rows = 0
    for indexes in by_text.values():
        if len(indexes) == 1:
            continue
        by_labels: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for index in indexes:
            by_labels[tickets[index].labels].append(index)
        duplicate_rows += len(indexes) - len(by_labels)
        if len(by_labels) > 1:
            conflicting_rows += len(indexes)
            conflicts.append(_conflict([tickets[index] for index in indexes], label_fields))
            if settings.conflicts == "drop":
                for index in indexes:
                    detail = f"{len(by_labels)} different labellings of one text"
                    rejected[index] = _reject(tickets[index], "conflicting labels", detail)
                continue
        if settings.mode == "drop-exact":
            for same in by_labels.values():
                stays = max(same, key=lambda index: (*_rank(tickets[index]), -index))
                kept = tickets[stays]
                for index in same:
                    if index != stays:
                        detail = f"same text and labels as {kept.row.id} ({kept.file}:{kept.line})"
                        rejected[index] = _reject(tickets[index], "exact duplicate", detail)
    kept_tickets = [ticket for index, ticket in enumerate(tickets) if index not in rejected]
    rejects = [rejected[index] for index in sorted(rejected)]
    return EqualTexts(kept_tickets, rejects, conflicts, conflicting_rows, duplicate_rows)


def _rank(ticket: LabelledTicket) -> tuple[int, float]:
    split = SPLITS.index(ticket.official) if ticket.official else 0
    return split, ticket.time.timestamp() if ticket.time else 0.0


def _conflict(tickets: Sequence[LabelledTicket], label_fields: Sequence[str]) -> dict[str, Any]:
    rows = [
        {
            "id": ticket.row.id,
            "file": ticket.file,
            "line": ticket.line,
            "labels": {name: ticket.row.record[name] for name in label_fields},
        }
        for ticket in tickets
    ]
    return {"text": tickets[0].row.text, "rows": rows}


def _reject(ticket: LabelledTicket, reason: str, detail: str) -> Reject:
    return Reject(ticket.file, ticket.line, reason, ticket.row.text, detail, ticket.row.id)
