"""TRL's trainer with this project's loss, measurements and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers.trainer_callback import PrinterCallback, TrainerState
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from triagekit.errors import TriageError
from triagekit.training import checkpoint_state
from triagekit.training.checkpoints import checkpoint_path, rotate, write_checkpoint
from triagekit.training.loss import give_back_forward, normaliser, take_selected_logits, token_losses
from triagekit.training.metrics_log import MetricsLog
from triagekit.training.resume import TRAINER_STATE
from triagekit.training.sampler import EpochSampler
from triagekit.training.settings import TrainSettings
from triagekit.training.stopping import stops_early


class TriageTrainer(SFTTrainer):
    """SFTTrainer on rows that are tokenised already.

    - Loss: cross entropy summed over the trained tokens, divided by their number (or class weights) in the whole
      effective batch, over all accumulation steps and processes.
    - `evaluate`: mean over all trained tokens of the validation rows; no logits are kept.
    - Checkpoints: complete or absent, without pickle, enough to go on bit for bit.
    """

    # The loss is normalised over the whole effective batch already; the Trainer must not divide it once more.
    loss_is_scaled_for_ga: Any = True

    def __init__(
        self,
        model: torch.nn.Module,
        settings: TrainSettings,
        arguments: SFTConfig,
        *,
        train_rows: Any,
        eval_batches: Sequence[dict[str, torch.Tensor]],
        collator: Callable[..., dict[str, torch.Tensor]],
        tokenizer: Any,
        sampler: EpochSampler,
        callbacks: Sequence[Any],
    ) -> None:
        self.settings = settings
        self.row_sampler = sampler
        self._eval_batches = eval_batches
        self._root = Path(str(arguments.output_dir))
        self.metrics_log: MetricsLog | None = None
        self.seconds_before = 0.0
        self.trained_tokens = 0
        self.rows_seen = 0
        self._session_start: float | None = None
        self._window_loss: Any = 0.0
        self._window_correct: Any = 0
        self._window_count = 0
        self._window_steps = 0
        self._session_tokens = 0
        self._speed_mark = (0.0, 0)
        self.last_line: dict[str, Any] = {}
        super().__init__(
            model=cast(Any, model),
            args=arguments,
            data_collator=collator,
            train_dataset=train_rows,
            # Read by our own `evaluate` only; the Trainer wants to see that there is something.
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
        take_selected_logits(self.network)

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

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.row_sampler

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        if not batch_samples:
            return None
        total = normaliser(batch_samples).to(device)
        return self.accelerator.gather(total).sum() if self.accelerator.num_processes > 1 else total

    # --- loss -------------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The micro-batch's share of the effective batch's loss, a scalar in nats a token."""
        losses = token_losses(model, inputs)
        total = normaliser([inputs]) if num_items_in_batch is None else num_items_in_batch
        loss = losses.weighted_sum / total
        self._window_loss = self._window_loss + loss.detach()
        self._window_correct = self._window_correct + losses.correct.sum()
        self._window_count += losses.correct.numel()
        self.trained_tokens += losses.correct.numel()
        self.rows_seen += len(inputs["input_ids"])
        self._session_tokens += int(inputs["attention_mask"].sum())
        # Data-parallel training averages gradients over processes; the sum over all of them is wanted.
        loss = loss * self.accelerator.num_processes
        return (loss, None) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean negative log-likelihood (unweighted, nats a token) and accuracy over all trained validation tokens."""
        model = self.model_wrapped
        model.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        with torch.no_grad():
            for batch in self._eval_batches[rank::ranks]:
                losses = token_losses(model, self._prepare_inputs(dict(batch)))
                likelihood = losses.negative_log_likelihood
                sums += torch.tensor(
                    [likelihood.double().sum().item(), losses.correct.sum().item(), likelihood.numel()],
                    dtype=torch.float64,
                )
        model.train()
        total, correct, count = self.accelerator.reduce(sums.to(self.args.device)).tolist()
        figures = {f"{metric_key_prefix}_loss": total / count, f"{metric_key_prefix}_token_accuracy": correct / count}
        self._write({"split": "val", "loss": total / count, "token_accuracy": correct / count})
        self.state.log_history.append({"step": self.state.global_step, **figures})
        # A forward of the last batches is no training time.
        self._speed_mark = (time.monotonic(), self._session_tokens)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    # --- measurements -----------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write the training line of the steps since the last one; called by the Trainer every `log_every_steps`."""
        self.control.should_log = False
        if "learning_rate" not in logs or self._window_count == 0:
            return
        now, (before, tokens) = time.monotonic(), self._speed_mark
        loss, norm = float(self._window_loss) / max(1, self._window_steps), float(logs.get("grad_norm", math.nan))
        if not math.isfinite(loss):
            raise TriageError(
                f"The training loss is {loss} at step {self.state.global_step}: the run has diverged. Lower "
                f"optimizer.learning_rate (now {self.args.learning_rate:g}), or set precision: fp32."
            )
        line = {
            "split": "train",
            "loss": loss,
            "token_accuracy": float(self._window_correct) / self._window_count,
            "learning_rate": logs["learning_rate"],
            # Not finite in a step that float16's loss scaling skipped.
            "gradient_norm": norm if math.isfinite(norm) else None,
            "tokens_per_second": round((self._session_tokens - tokens) / max(now - before, 1e-9), 1),
        }
        self._speed_mark = (now, self._session_tokens)
        self._window_loss, self._window_correct, self._window_count, self._window_steps = 0.0, 0, 0, 0
        self._write(line)
        self.last_line = line

    def begin_session(self) -> None:
        """Training time counts from now on."""
        self._session_start = time.monotonic()
        self._speed_mark = (self._session_start, 0)

    def end_session(self) -> None:
        """Training time no longer counts."""
        self.seconds_before, self._session_start = self.seconds(), None

    def count_step(self) -> None:
        """One more optimizer step is part of the next training line."""
        self._window_steps += 1

    def _write(self, line: dict[str, Any]) -> None:
        if self.metrics_log is not None and self.is_world_process_zero():
            place = {"step": self.state.global_step, "epoch": round(float(self.state.epoch or 0), 4)}
            self.metrics_log.write({**place, **line})

    def seconds(self) -> float:
        """Training time of this run, earlier sessions included; work that a kill threw away is not."""
        return self.seconds_before + (time.monotonic() - self._session_start if self._session_start else 0.0)

    def counters(self) -> dict[str, Any]:
        """What the next lines of the log depend on."""
        return {
            "seconds": self.seconds(),
            "trained_tokens": self.trained_tokens,
            "rows_seen": self.rows_seen,
            "window": [float(self._window_loss), int(self._window_correct), self._window_count, self._window_steps],
        }

    def restore_counters(self, counters: dict[str, Any]) -> None:
        """Put counters() of an earlier session back."""
        self.seconds_before = counters["seconds"]
        self.trained_tokens, self.rows_seen = counters["trained_tokens"], counters["rows_seen"]
        self._window_loss, self._window_correct, self._window_count, self._window_steps = counters["window"]

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        if not self.args.should_save:
            return
        if self.metrics_log is not None:
            self.metrics_log.sync()

        def write(folder: Path) -> None:
            checkpoint_state.save_weights(self.network, folder)
            checkpoint_state.save_training_state(self, folder)
            self.state.save_to_json(str(folder / TRAINER_STATE))

        write_checkpoint(self._root, self.state.global_step, write)
        rotate(self._root, self.settings.checkpoints.keep, self.state.best_global_step or None)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        checkpoint_state.load_weights(self.network, folder)
        self.restore_counters(checkpoint_state.load_counters(folder))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoint_state.load_optimizer(self, Path(checkpoint))

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoint_state.load_scaler(self, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoint_state.load_random_state(Path(checkpoint))

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
        return cast(torch.nn.Module, model)
