"""Rows to one packed batch: each prompt's common beginning once, no padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from triagekit.modeling.shared_prefix.layout import SharedPrefixLayout
from triagekit.training.collator import IGNORED, Batch


class SharedPrefixCollator:
    """Packs rows behind the prefixes that they share.

    Rows need `prefix_length` beside input_ids and labels: so many tokens at their beginning are the same for other rows,
    and none of them is trained. Gives input_ids and labels (and weights, fields) of shape (1, T), position_ids (1, T), and
    the `shared_prefix` layout. Rows keep their order within a group, groups that of their first row.
    """

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        groups: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(tuple(row["input_ids"][: row["prefix_length"]]), []).append(row)
        # A prefix with one row is no prefix: the row is computed as a whole.
        shared = [(len(prefix) if len(members) > 1 else 0, members) for prefix, members in groups.items()]
        layout = SharedPrefixLayout.of(
            [(length, [len(row["input_ids"]) - length for row in members]) for length, members in shared]
        )
        batch: Batch = {
            "input_ids": _packed("input_ids", shared, torch.long),
            "labels": _packed("labels", shared, torch.long),
            "position_ids": layout.positions[None],
            "shared_prefix": layout,
        }
        # The first token of a row follows another row's last one, from which it cannot be told.
        batch["labels"][0, layout.starts] = IGNORED
        if "weights" in rows[0]:
            batch["weights"] = _packed("weights", shared, torch.float)
        if "fields" in rows[0]:
            batch["fields"] = _packed("fields", shared, torch.long)
        return batch


def _packed(name: str, groups: Sequence[tuple[int, Sequence[dict[str, Any]]]], kind: torch.dtype) -> torch.Tensor:
    pieces = (
        piece for length, rows in groups for piece in (rows[0][name][:length], *(row[name][length:] for row in rows))
    )
    return torch.tensor([list(chain.from_iterable(pieces))], dtype=kind)
