"""What happens between two optimizer steps: epoch order, signals, early stopping, saving the best, the progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from triagekit.progress import Progress
from triagekit.training.stopping import StopRequest, stops_early

if TYPE_CHECKING:
    from triagekit.training.trainer import TriageTrainer


class RunFlow(TrainerCallback):
    """Steers one TriageTrainer; `trainer` is set once that is built."""

    def __init__(self, stop: StopRequest, progress: Progress, steps_per_epoch: int) -> None:
        self.trainer: TriageTrainer | None = None
        self._stop = stop
        self._progress = progress
        self._steps_per_epoch = steps_per_epoch

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Start the bar where the run goes on."""
        self._progress.start("train", state.max_steps, "steps")
        if state.global_step:
            self._progress.advance(state.global_step)

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Row order follows from the epoch's number; set here because a resumed loader does not pass it on."""
        if self.trainer is not None:
            self.trainer.row_sampler.set_epoch(state.global_step // self._steps_per_epoch)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Count the step, grant a signal's wish to stop."""
        if self.trainer is not None:
            self.trainer.measured.count_step()
            line = self.trainer.last_line
            shown = {"loss": line["loss"], "lr": line["learning_rate"]} if line else {}
            speed = {"tokens/s": int(line["tokens_per_second"])} if line else {}
            self._progress.advance(1, **shown, **speed)
        # Every measurement on the validation split has its training line, and the last steps have theirs.
        if control.should_evaluate or state.global_step >= state.max_steps:
            control.should_log = True
        if self.trainer is not None and self._stop.agree(self.trainer.group):
            control.should_save = True
            control.should_training_stop = True

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """A new best must be on disk, and so must the step at which a run stops early."""
        if self.trainer is None:
            return
        value, best = others["metrics"][str(args.metric_for_best_model)], state.best_metric
        if best is None or (value > best if args.greater_is_better else value < best):
            control.should_save = True
        if stops_early(self.trainer.settings.evaluation, state.log_history):
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """End the bar."""
        self._progress.finish()
