"""The end of a run: best weights → adapter folder, verified → summary.json, which says that the run is finished."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from triagekit.modeling.adapter_folder import read_card, save_adapter
from triagekit.training import checkpoint_state, environment
from triagekit.training.prepare import PreparedRun


def finish_run(run: PreparedRun) -> None:
    """Save the adapter from the best checkpoint's weights (the last ones without a validation split), then the summary.

    A kill in here costs nothing: the next start finds the last checkpoint and comes here again.
    """
    trainer = run.trainer
    memory = environment.peak_memory()
    best = trainer.best_checkpoint()
    if best is not None:
        checkpoint_state.load_weights(trainer.network, best)
    model = trainer.plain_model()
    model.eval()
    save_adapter(
        model,
        run.folder.adapter,
        run.settings.adapter,
        run.segments,
        run.settings.base,
        run.report,
        run.dataset.fingerprint,
        run.sample_texts,
    )
    run.folder.write_summary(summary(run, memory))


def summary(run: PreparedRun, peak_memory_bytes: int) -> dict[str, Any]:
    """The figures of a finished run."""
    trainer, plan = run.trainer, run.plan
    history = trainer.state.log_history
    metric = run.settings.evaluation.best_metric
    best = next((entry for entry in history if entry["step"] == trainer.state.best_global_step), None)
    lines = [line for line in run.folder.metric_lines() if line["split"] == "train"]
    seconds = trainer.seconds()
    copied = (
        "name",
        "method",
        "base",
        "base_fingerprint",
        "data",
        "data_fingerprint",
        "schema",
        "schema_fingerprint",
        "template_fingerprint",
        "effective_batch",
        "trainable",
        "total",
        "share",
        "conditions_fingerprint",
    )
    return {
        **{name: plan[name] for name in copied},
        "status": "finished",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": run.settings.seed,
        "steps": trainer.state.global_step,
        "steps_planned": plan["steps"],
        "stopped_early": trainer.stopped_early,
        "epochs": round(trainer.rows_seen / plan["train"]["rows"], 4),
        "train_rows": plan["train"]["rows"],
        "best": best and {"step": best["step"], "metric": f"val_{metric}", "value": best[f"eval_{metric}"]},
        "train_loss_last": lines[-1]["loss"] if lines else None,
        "val_loss_best": best and best["eval_loss"],
        "token_accuracy_val": best and best["eval_token_accuracy"],
        # Of the training loop, its validation and checkpoints included; sessions before a kill too, up to their last
        # checkpoint.
        "seconds": round(seconds, 3),
        "rows_per_second": round(trainer.rows_seen / seconds, 3) if seconds else None,
        "peak_memory_bytes": peak_memory_bytes,
        "trained_tokens": trainer.trained_tokens,
        "tickets_cut": plan["train"]["tickets_cut"],
        "adapter_fingerprint": read_card(run.folder.adapter)["fingerprint"],
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }
