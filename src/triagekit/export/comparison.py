"""What a model makes of sample prompts and of labelled tickets, and how two such results differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from triagekit.data.rows import Row
from triagekit.evaluation.table import PredictionTable
from triagekit.modeling.adapter_folder import LoadedAdapter
from triagekit.modeling.forward import causal_model, hidden_states, project_to_logits
from triagekit.progress import Progress
from triagekit.scoring.predictor import Predictor
from triagekit.training.collator import IGNORED, PaddingCollator
from triagekit.training.loss import projected_losses

POSITIONS = 8
"""Logits are compared at the last 8 positions of each sample; they depend on all of its tokens."""

BATCH = 8


@dataclass(frozen=True)
class Measurement:
    """Of one model. `logits`: (positions, V) float32 a sample. The rest is None without labelled rows: `loss` in nats a
    trained token, `records` as decoded, `right` the share of rows with each field right, under "" all label fields."""

    logits: list[torch.Tensor]
    loss: float | None = None
    records: list[Any] | None = None
    right: dict[str, float] | None = None

    def figures(self) -> dict[str, Any]:
        """Loss and shares as JSON; {} without labelled rows."""
        if self.right is None:
            return {}
        fields = {name: share for name, share in self.right.items() if name}
        return {"loss": self.loss, "all_label_fields": self.right[""], "fields": fields}


def measure(loaded: LoadedAdapter, rows: Sequence[Row], progress: Progress) -> Measurement:
    """Logits on the card's sample prompts; on `rows` the loss, and what the decoder that scores archives emits."""
    logits = [last_logits(loaded.model, sample["ids"]) for sample in loaded.card["parity"]]
    if not rows:
        return Measurement(logits)
    loss = _loss(loaded, rows, progress)
    predictions = Predictor(loaded, batch_size=BATCH).predict([row.text for row in rows])
    table = PredictionTable.build(loaded.schema, rows, predictions)
    right = {name: float(table.correct(name).mean()) for name in loaded.schema.field_names}
    right[""] = float(table.all_correct([field.name for field in loaded.schema.label_fields]).mean())
    return Measurement(logits, loss, [prediction.record for prediction in predictions], right)


def difference(before: Measurement, after: Measurement) -> dict[str, Any]:
    """`after` less `before`, and how large the logits are that differ."""
    found: dict[str, Any] = {
        "max_logit": largest_difference(before.logits, after.logits),
        "largest_logit": max(float(each.abs().max()) for each in before.logits),
        "same_next_token": next_token_agreement(before.logits, after.logits),
    }
    if before.right is None or after.right is None or before.records is None or after.records is None:
        return found
    changed = sum(one != other for one, other in zip(before.records, after.records, strict=True))
    return {
        **found,
        "loss": (after.loss or 0.0) - (before.loss or 0.0),
        "all_label_fields": after.right[""] - before.right[""],
        "fields": {name: after.right[name] - share for name, share in before.right.items() if name},
        "records_changed": changed,
    }


def largest_difference(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    """Largest absolute difference of two lists of logits; infinite where one of them is not finite."""
    largest = max(float((one - other).abs().max()) for one, other in zip(before, after, strict=True))
    return largest if largest == largest else float("inf")


def next_token_agreement(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    """Share of positions at which both find the same token likeliest."""
    same = torch.cat([one.argmax(-1) == other.argmax(-1) for one, other in zip(before, after, strict=True)])
    return float(same.float().mean())


@torch.no_grad()
def last_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Logits (≤ 8, V), float32 on the CPU, at the last positions of one prompt."""
    input_ids = torch.tensor([list(ids)], device=_device(model))
    hidden, _ = hidden_states(model, input_ids, torch.ones_like(input_ids))
    return project_to_logits(model, hidden[0, -POSITIONS:]).float().cpu()


@torch.no_grad()
def _loss(loaded: LoadedAdapter, rows: Sequence[Row], progress: Progress) -> float:
    collate = PaddingCollator(loaded.tokenizer.pad_token_id or 0)
    device = _device(loaded.model)
    total, count = 0.0, 0
    progress.start("loss", len(rows), "tickets")
    for start in range(0, len(rows), BATCH):
        examples = [loaded.segments.encode_example(row.text, row.record) for row in rows[start : start + BATCH]]
        batch = collate(
            [
                {
                    "input_ids": each.input_ids,
                    "labels": [
                        token if trained else IGNORED
                        for token, trained in zip(each.input_ids, each.trained, strict=True)
                    ],
                }
                for each in examples
            ]
        )
        hidden, _ = hidden_states(loaded.model, batch["input_ids"].to(device), batch["attention_mask"].to(device))
        targets = batch["labels"][:, 1:].to(device)
        chosen = targets != IGNORED
        losses, _ = projected_losses(loaded.model, hidden[:, :-1][chosen], targets[chosen])
        total, count = total + float(losses.double().sum()), count + losses.numel()
        progress.advance(len(examples))
    progress.finish()
    return total / count


def _device(model: Any) -> torch.device:
    return torch.device(causal_model(model).get_input_embeddings().weight.device)
