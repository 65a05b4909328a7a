"""Rows to one padded batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

IGNORED = -100
"""Label of a token that is not trained, as everywhere in transformers."""

NO_FIELD = -1
"""Field of a token that is no part of a value."""

Batch = dict[str, Any]
"""What a collator gives: tensors, and for packed rows the layout that tells them apart."""

Collator = Callable[[Sequence[dict[str, Any]]], Batch]
_MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids", "shared_prefix")


def model_inputs(batch: Batch) -> Batch:
    """What the model's decoder takes of a batch, all on the device of the tokens."""
    device = batch["input_ids"].device
    return {name: batch[name].to(device) for name in _MODEL_INPUTS if name in batch}


def row_count(batch: Batch) -> int:
    """Tickets in a batch."""
    return batch["shared_prefix"].rows if "shared_prefix" in batch else len(batch["input_ids"])


def token_count(batch: Batch) -> int:
    """Tokens that are computed for the sake of their content: all but padding."""
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()


def computed_tokens(batch: Batch) -> int:
    """Tokens that go through the model, padding among them."""
    return int(batch["input_ids"].numel())


def padded_tokens(batch: Batch) -> int:
    """Tokens that would go through the model if each row were padded to the longest of the batch."""
    if "shared_prefix" in batch:
        return int(batch["shared_prefix"].rows * batch["shared_prefix"].longest)
    return computed_tokens(batch)


def row_numbers(batch: Batch) -> torch.Tensor:
    """Of the shape of input_ids: a number for each token that is the same for the own tokens of a row, and for no other."""
    if "shared_prefix" in batch:
        units: torch.Tensor = batch["shared_prefix"].units
        return units[None]
    rows, tokens = batch["input_ids"].shape
    return torch.arange(rows)[:, None].expand(rows, tokens)


class PaddingCollator:
    """Pads on the right to the longest row of the batch.

    Gives input_ids, attention_mask, labels (IGNORED on prompt and padding), all (rows, tokens) int64, and, when the
    rows have them, `weights` (rows, tokens) float32, 0 where nothing is trained, and `fields` (rows, tokens) int64,
    NO_FIELD outside of values. Padding is told by the mask alone: the pad token may be the end-of-turn token, which is trained.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        longest = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), longest)
        input_ids = torch.full(shape, self._pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED, dtype=torch.long)
        weights = torch.zeros(shape) if "weights" in rows[0] else None
        fields = torch.full(shape, NO_FIELD, dtype=torch.long) if "fields" in rows[0] else None
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[index, :length] = torch.tensor(row["input_ids"], dtype=torch.long)
            attention_mask[index, :length] = 1
            labels[index, :length] = torch.tensor(row["labels"], dtype=torch.long)
            if weights is not None:
                weights[index, :length] = torch.tensor(row["weights"])
            if fields is not None:
                fields[index, :length] = torch.tensor(row["fields"], dtype=torch.long)
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        optional = {"weights": weights, "fields": fields}
        return {**batch, **{name: column for name, column in optional.items() if column is not None}}
