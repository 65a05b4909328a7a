"""The rows of a run's first optimizer step, and the loss on them before anything is learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from triagekit.modeling.base import is_own_base
from triagekit.modeling.forward import causal_model
from triagekit.training.batches import TrainingRows, micro_batches
from triagekit.training.collator import Batch, Collator
from triagekit.training.loss import token_losses
from triagekit.training.process_group import ProcessGroup
from triagekit.training.settings import TrainSettings
from triagekit.training.signs_of_trouble import Sign, describe_signs, highest_first_loss, signs_in_first_loss

if TYPE_CHECKING:
    from triagekit.training.prepare import PreparedRun


def look_at_first_step(run: PreparedRun) -> str:
    """Measure the loss that the run begins with, add it and its signs to the plan, and give every sign in words ("" when
    there is none). Weights are still the first ones, whatever the run goes on from. Collective.

    Not measured where ZeRO-3 will spread the weights: until then they are on the CPU, for being too large for a card.
    """
    trainer, plan = run.trainer, run.plan
    if trainer.group.ranks.sharding != "zero3":
        loss = first_step_loss(
            trainer.network,
            trainer.train_columns,
            first_step_rows(trainer.row_sampler.order(0), run.settings),
            run.settings,
            cast(Collator, trainer.data_collator),
            trainer.group,
        )
        add_first_loss(plan, loss, vocabulary_of(trainer.network), run.settings.base)
    return describe_signs([Sign(**sign) for sign in plan["warnings"]])


def add_first_loss(plan: dict[str, Any], loss: float, vocabulary: int, base: str) -> None:
    """Note the loss before the first step in the plan, what it should be below for this `base`, and what is strange about
    it."""
    own = is_own_base(base)
    plan["first_loss"] = {
        "loss": loss,
        "vocabulary": vocabulary,
        "ln_vocabulary": math.log(vocabulary),
        "usual_below": highest_first_loss(vocabulary, own),
    }
    plan["warnings"] += [sign.as_dict() for sign in signs_in_first_loss(loss, vocabulary, own)]


def first_step_rows(order: Sequence[int], settings: TrainSettings) -> list[int]:
    """Row indices of the first optimizer step, of an epoch in this `order`."""
    return list(order[: settings.batch.effective])


@torch.no_grad()
def first_step_loss(
    model: torch.nn.Module,
    columns: Mapping[str, Sequence[Sequence[Any]]],
    rows: Sequence[int],
    settings: TrainSettings,
    collator: Collator,
    group: ProcessGroup,
) -> float:
    """Mean negative log-likelihood of the trained tokens of `rows`, nats a token, without class weights and dropout.

    `model` has been through compute_losses_in_forward. The processes share the rows; collective. No random number is
    drawn, so that a run is the same with and without this measurement.
    """
    was_training = model.training
    model.eval()
    source = TrainingRows(columns)
    device = causal_model(model).get_input_embeddings().weight.device
    total, count = torch.zeros((), dtype=torch.float64), 0
    ranks = group.ranks
    for part in micro_batches(rows, settings.batch.micro, ranks.rank, ranks.size):
        own = [row for row in part if row >= 0]
        if own:
            batch = _on(device, collator([source[row] for row in own]))
            likelihood = token_losses(model, batch).negative_log_likelihood
            total += likelihood.double().sum().cpu()
            count += likelihood.numel()
    model.train(was_training)
    summed, tokens = group.reduce([float(total), count])
    return summed / tokens


def vocabulary_of(model: torch.nn.Module) -> int:
    """Tokens that the model chooses from."""
    return int(causal_model(model).config.get_text_config().vocab_size)


def _on(device: torch.device, batch: Batch) -> Batch:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
