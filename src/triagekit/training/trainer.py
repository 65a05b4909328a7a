"""TRL's trainer with this project's loss, measurements and checkpoints."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers.trainer_callback import PrinterCallback, TrainerState
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from triagekit.errors import TriageError
from triagekit.modeling.forward import causal_model
from triagekit.modeling.precision import resolve_precision
from triagekit.modeling.shared_prefix.attention import attend_by_shared_prefix
from triagekit.training import checkpoint_state, zero
from triagekit.training.batches import StepBatches, TrainingRows
from triagekit.training.checkpoints import checkpoint_path, rotate, write_checkpoint
from triagekit.training.collator import Batch
from triagekit.training.field_metrics import FieldMetrics
from triagekit.training.lora_plus import raise_rate_of_b
from triagekit.training.loss import compute_losses_in_forward, give_back_forward, normaliser, token_losses
from triagekit.training.measurements import Measurements
from triagekit.training.metrics_log import MetricsLog
from triagekit.training.objective import Objective
from triagekit.training.optimizer_state import names_of_groups
from triagekit.training.packing import SharedPrefixCollator
from triagekit.training.process_group import ProcessGroup
from triagekit.training.resume import TRAINER_STATE
from triagekit.training.sampler import EpochSampler
from triagekit.training.settings import TrainSettings
from triagekit.training.stopping import stops_early
from triagekit.training.tracking import figures_to_send
from triagekit.training.validation import validation_figures

COMPUTATION = ("computed_tokens_share", "padding_share", "peak_memory_bytes")
"""Figures of a training line that say how it was computed."""


class TriageTrainer(SFTTrainer):
    """SFTTrainer on rows that are tokenised already.

    - Rows: each optimizer step takes the same ones however many processes share them.
    - Loss: cross entropy summed over the trained tokens, divided by their number (or class weights) in the whole
      effective batch, over all accumulation steps and processes.
    - `evaluate`: mean over all trained tokens of the validation rows, and by field; no logits are kept.
    - Checkpoints: complete or absent, without pickle, enough to go on bit for bit, on other numbers of processes too.
    """

    # The loss is normalised over the whole effective batch already; the Trainer must not divide it once more.
    loss_is_scaled_for_ga: Any = True

    def __init__(
        self,
        model: torch.nn.Module,
        settings: TrainSettings,
        arguments: SFTConfig,
        *,
        train_columns: Mapping[str, Sequence[Sequence[Any]]],
        eval_batches: list[Batch],
        collator: Callable[..., Batch],
        tokenizer: Any,
        sampler: EpochSampler,
        objective: Objective,
        callbacks: Sequence[Any],
        group: ProcessGroup | None = None,
        field_metrics: FieldMetrics | None = None,
        notes: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.settings = settings
        self.group = group or ProcessGroup()
        self.row_sampler = sampler
        self._objective = objective
        self.optimizer_names: list[list[str]] = []
        self.is_sharded = False
        self._notes = notes
        self._field_metrics = field_metrics
        self.train_columns = train_columns
        self._rows = TrainingRows(train_columns)
        self._eval_batches = eval_batches
        self._root = Path(str(arguments.output_dir))
        self.metrics_log: MetricsLog | None = None
        self.measured = Measurements(self.group)
        self.last_line: dict[str, Any] = {}
        super().__init__(
            model=cast(Any, model),
            args=arguments,
            data_collator=collator,
            # Our own `get_train_dataloader` and `evaluate` read rows; the Trainer wants to see that there is something.
            train_dataset=Dataset.from_dict({name: list(column[:1]) for name, column in train_columns.items()}),
            eval_dataset=list(eval_batches) or None,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)
        for parameter in self.network.parameters():
            # TRL casts the adapters of a quantised base to bfloat16, in which small updates vanish and resuming is
            # not exact (peft #2421).
            if parameter.requires_grad and parameter.dtype != torch.float32:
                parameter.data = parameter.data.float()
        compute_losses_in_forward(self.network, self._objective.over_vocabulary)
        self._own_attention = (
            attend_by_shared_prefix(self.network) if isinstance(collator, SharedPrefixCollator) else None
        )

    @property
    def network(self) -> torch.nn.Module:
        """The model that is trained, without the wrappers that accelerate puts around it."""
        return cast(torch.nn.Module, self.model)

    def _send_telemetry(self) -> None:
        """Nothing is sent to anyone."""

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the libraries' estimate walks over all parameters at every micro-batch."""
        return 0

    # --- data -------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's micro-batches. Not prepared by accelerate, which would double or drop rows of an epoch's last
        step to make processes even."""
        batch, ranks = self.settings.batch, self.group.ranks
        costs = self._rows.costs(self.row_sampler.variants, shared=isinstance(self.data_collator, SharedPrefixCollator))
        return DataLoader(
            self._rows,
            batch_sampler=StepBatches(self.row_sampler, batch.effective, batch.micro, ranks.rank, ranks.size, costs),
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        if not batch_samples:
            return None
        total = normaliser(batch_samples)
        if self.group.size == 1:
            return total.to(device)
        return torch.tensor(self.group.reduce([float(total)])[0], device=device)

    # --- loss -------------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The micro-batch's share of the effective batch's loss, a scalar in nats a token."""
        with self._computation_type():
            losses = token_losses(model, inputs)
        total = normaliser([inputs]) if num_items_in_batch is None else num_items_in_batch
        loss = self._objective.weighted_sum(losses) / total
        self.measured.add(loss, losses, inputs)
        # Data-parallel training averages gradients over processes; the sum over all of them is wanted.
        loss = loss * self.group.ranks.size
        return (loss, None) if return_outputs else loss

    def _computation_type(self) -> contextlib.AbstractContextManager[Any]:
        """Accelerate computes in bfloat16 by itself, but leaves that to DeepSpeed where there is one, which would round
        the trained weights too."""
        if not self.group.ranks.deepspeed or resolve_precision(self.settings.precision) != torch.bfloat16:
            return contextlib.nullcontext()
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and accuracies on the validation rows (`validation_figures`); no logits are kept."""
        model = self.model_wrapped
        model.eval()
        with self._computation_type():
            figures = validation_figures(
                self._eval_batches,
                lambda batch: token_losses(model, self._prepare_inputs(dict(batch))),
                self.group,
                self._field_metrics,
            )
        model.train()
        self._write({"split": "val", **figures})
        figures = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.state.log_history.append({"step": self.state.global_step, **figures})
        # A forward of the last batches is no training time.
        self.measured.restart_clock()
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    # --- measurements -----------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write the training line of the steps since the last one; called by the Trainer every `log_every_steps`."""
        self.control.should_log = False
        if "learning_rate" not in logs or not self.measured.has_steps:
            return
        figures, norm = self.measured.line(), float(logs.get("grad_norm", math.nan))
        loss = figures["loss"]
        if not math.isfinite(loss):
            raise TriageError(
                f"The training loss is {loss} at step {self.state.global_step}: the run has diverged. Lower "
                f"optimizer.learning_rate (now {self.args.learning_rate:g}), or set precision: fp32."
            )
        line = {
            "split": "train",
            "loss": loss,
            "token_accuracy": figures["token_accuracy"],
            "learning_rate": logs["learning_rate"],
            # Not finite in a step that float16's loss scaling skipped.
            "gradient_norm": norm if math.isfinite(norm) else None,
            **{name: figures[name] for name in ("tokens_per_second", *COMPUTATION)},
        }
        self._write(line)
        self.last_line = line

    def _write(self, line: dict[str, Any]) -> None:
        if self.metrics_log is not None:
            place = {
                "step": self.state.global_step,
                "epoch": round(self.row_sampler.epoch_after(self.state.global_step), 4),
            }
            self.metrics_log.write({**place, **line})
        if self.settings.report_to and self.group.main:
            self.callback_handler.on_log(self.args, self.state, self.control, figures_to_send(line))

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> Any:
        """The libraries' optimizer; which weight is which is noted before DeepSpeed makes flat shards of them."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created:
            raise_rate_of_b(self.optimizer, self.network, self.settings.adapter.lora_plus_ratio)
            self.optimizer_names = names_of_groups(self.optimizer, self.network)
        return optimizer

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        ranks = self.group.ranks
        if not ranks.deepspeed:
            return super()._prepare_for_training(  # type: ignore[no-untyped-call]
                max_steps, train_dataloader, resume_from_checkpoint
            )
        # Weights first: DeepSpeed makes its master copies and shards of what it finds.
        if resume_from_checkpoint is not None:
            self._load_from_checkpoint(resume_from_checkpoint)
        if ranks.sharding == "zero3":
            zero.shard_weights(self.network, zero.deepspeed_config(ranks), ranks)
            self.is_sharded = True
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)  # type: ignore[no-untyped-call]
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        if self.metrics_log is not None:
            self.metrics_log.sync()
        state = checkpoint_state.collect(self)

        def write(folder: Path) -> None:
            checkpoint_state.write(state, folder)
            if self.group.main:
                self.state.save_to_json(str(folder / TRAINER_STATE))

        write_checkpoint(self._root, self.state.global_step, write, self.group)
        if self.group.main:
            rotate(self._root, self.settings.checkpoints.keep, self.state.best_global_step or None)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        checkpoint_state.load_weights(self.network, folder)
        own = checkpoint_state.load_rank(folder, self.group.rank)
        self.measured.restore(checkpoint_state.load_counters(folder), own["window"] if own else None)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        reason = checkpoint_state.load_optimizer(self, Path(checkpoint))
        if reason is not None:
            self._notes(f"The optimizer starts anew from the adapter's weights: {reason}.")

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoint_state.load_scaler(self, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        own = checkpoint_state.load_rank(Path(checkpoint), self.group.rank)
        if own is not None:
            checkpoint_state.restore_random_state(own["random"])

    def best_checkpoint(self) -> Path | None:
        """Folder of the best weights by the validation split, if it was measured."""
        if not self.state.best_global_step:
            return None
        return checkpoint_path(self._root, self.state.best_global_step)

    @property
    def stopped_early(self) -> bool:
        """Whether the validation measurements have ended the run."""
        return stops_early(self.settings.evaluation, self.state.log_history)

    def take_state_of(self, checkpoint: Path) -> None:
        """Be where `checkpoint` was made, without training on: for a run that only lacks its ending."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))
        self._load_from_checkpoint(str(checkpoint))

    def plain_model(self) -> torch.nn.Module:
        """The model without the wrappers and the changed forward of training."""
        model = self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        give_back_forward(model)
        if self._own_attention is not None:
            causal_model(model).set_attn_implementation(self._own_attention)
        return cast(torch.nn.Module, model)
