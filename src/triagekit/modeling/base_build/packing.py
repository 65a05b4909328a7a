"""Groups of rows to one batch: the shared prefix stands once, the rows of a group do not see each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triagekit.modeling.base_build.stream import Group

_PAD = -2
_PREFIX = -1


@dataclass(frozen=True)
class PackedBatch:
    """`input_ids`, `position_ids`, `targets` [B, T]; `attention` bool [B, 1, T, T]; `weights` float [B, T].

    Position t predicts `targets[t]` with loss weight `weights[t]` (0: not trained). `record` marks weights of records,
    `fields` [B, T] counts the value (row × field) that a target belongs to, -1 elsewhere.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    record: torch.Tensor
    fields: torch.Tensor


def pack(groups: Sequence[Group], text_weight: float, skeleton_weight: float = 1.0) -> PackedBatch:
    """One sequence a group: prefix, then the rows, each at the positions that it would have behind the prefix alone."""
    length = max(
        group.prefix_length + sum(len(e.input_ids) - group.prefix_length for e in group.examples) for group in groups
    )
    shape = (len(groups), length)
    input_ids = torch.zeros(shape, dtype=torch.long)
    position_ids = torch.zeros(shape, dtype=torch.long)
    targets = torch.zeros(shape, dtype=torch.long)
    weights = torch.zeros(shape)
    record = torch.zeros(shape, dtype=torch.bool)
    fields = torch.full(shape, -1, dtype=torch.long)
    owner = torch.full(shape, _PAD, dtype=torch.long)
    values = 0
    for b, group in enumerate(groups):
        start = group.prefix_length
        input_ids[b, :start] = torch.tensor(group.examples[0].input_ids[:start])
        position_ids[b, :start] = torch.arange(start)
        owner[b, :start] = _PREFIX
        suffix = len(group.segments.suffix_ids)
        for row, example in enumerate(group.examples):
            own = torch.tensor(example.input_ids[group.prefix_length :])
            end = start + len(own)
            input_ids[b, start:end] = own
            position_ids[b, start:end] = group.prefix_length + torch.arange(len(own))
            owner[b, start:end] = row
            targets[b, start : end - 1] = own[1:]
            answer = torch.tensor(example.trained[group.prefix_length + 1 :])
            record[b, start : end - 1] = answer
            ticket = torch.zeros(len(own) - 1)
            ticket[: max(0, example.prompt_length - group.prefix_length - suffix - 1)] = text_weight
            field = torch.tensor(example.fields[group.prefix_length + 1 :])
            weights[b, start : end - 1] = torch.where(answer, torch.where(field >= 0, 1.0, skeleton_weight), ticket)
            fields[b, start : end - 1] = torch.where(field >= 0, field + values, field)
            values += len(group.segments.schema.fields)
            start = end
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = owner[:, :, None] == owner[:, None, :]
    to_prefix = (owner == _PREFIX)[:, None, :] & (owner != _PAD)[:, :, None]
    # A padded position sees itself: a row of the mask with nothing in it gives NaN.
    attention = (causal & (same | to_prefix))[:, None]
    return PackedBatch(input_ids, position_ids, attention, targets, weights, record, fields)
