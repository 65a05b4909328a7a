"""The end of a run: best weights → adapter folder, verified → summary.json, which says that the run is finished."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from triagekit.modeling.adapter_folder import read_card, save_adapter
from triagekit.training import checkpoint_state, environment
from triagekit.training.plan_file import AS_COMPUTED
from triagekit.training.prepare import PreparedRun


def finish_run(run: PreparedRun) -> None:
    """Save the adapter from the best checkpoint's weights (the last ones without a validation split), then the summary.

    The processes leave each other first; the first one saves alone, however long that takes. A kill in here costs
    nothing: the next start finds the last checkpoint and comes here again.
    """
    trainer = run.trainer
    group = trainer.group
    memory = int(group.reduce([environment.peak_memory()], "max")[0])
    counters = trainer.measured.totals()
    best = trainer.best_checkpoint()
    last = checkpoint_state.trained_weights(trainer) if best is None else {}
    if trainer.is_sharded:
        # The cards' memory, for the whole model below; needs all processes.
        trainer.accelerator.free_memory()
    main = group.main
    group.close()
    if not main:
        return
    model = trainer.plain_model() if not trainer.is_sharded else unsharded_model(run)
    if best is not None:
        checkpoint_state.load_weights(model, best)
    elif trainer.is_sharded:
        checkpoint_state.put_weights(model, last)
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
    run.folder.write_summary(summary(run, memory, counters))


def unsharded_model(run: PreparedRun) -> Any:
    """A whole model of the same kind, since this process holds only its share of the one that was trained.

    It stands on the CPU: whoever shards the weights of a base has cards that are too small for it.
    """
    import transformers
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from triagekit.modeling.adapters import attach_adapter, output_token_ids
    from triagekit.modeling.base import load_base
    from triagekit.modeling.precision import precision_name, resolve_precision

    settings = run.settings
    # Or transformers would shard this one too.
    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    transformers.set_seed(settings.seed)
    model = load_base(settings.base, precision_name(resolve_precision(settings.precision)), None, "cpu")
    wants_tokens = settings.adapter.method == "hybrid" and settings.adapter.head == "output_tokens"
    model, _ = attach_adapter(model, settings.adapter, output_token_ids(run.segments) if wants_tokens else None)
    return model


def summary(run: PreparedRun, peak_memory_bytes: int, counters: dict[str, Any]) -> dict[str, Any]:
    """The figures of a finished run; `counters` and the memory of the fullest process are over all of them."""
    trainer, plan = run.trainer, run.plan
    history = trainer.state.log_history
    metric = run.settings.evaluation.best_metric
    best = next((entry for entry in history if entry["step"] == trainer.state.best_global_step), None)
    lines = [line for line in run.folder.metric_lines() if line["split"] == "train"]
    seconds, rows_seen = counters["seconds"], counters["rows_seen"]
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
        *AS_COMPUTED,
        "rung",
        "passed_over",
        "world",
        "sharding",
    )
    return {
        **{name: plan[name] for name in copied},
        "status": "finished",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": run.settings.seed,
        "steps": trainer.state.global_step,
        "steps_planned": plan["steps"],
        "stopped_early": trainer.stopped_early,
        "epochs": round(rows_seen / plan["train"]["rows"], 4),
        "train_rows": plan["train"]["rows"],
        "best": best and {"step": best["step"], "metric": f"val_{metric}", "value": best[f"eval_{metric}"]},
        "train_loss_last": lines[-1]["loss"] if lines else None,
        "val_loss_best": best and best["eval_loss"],
        "token_accuracy_val": best and best["eval_token_accuracy"],
        "value_accuracy_val": best and _by_field(best, "value_accuracy"),
        "field_token_accuracy_val": best and _by_field(best, "field_token_accuracy"),
        # Of the training loop, its validation and checkpoints included; sessions before a kill too, up to their last
        # checkpoint.
        "seconds": round(seconds, 3),
        "rows_per_second": round(rows_seen / seconds, 3) if seconds else None,
        "peak_memory_bytes": peak_memory_bytes,
        "trained_tokens": counters["trained_tokens"],
        "tickets_cut": plan["train"]["tickets_cut"],
        "adapter_fingerprint": read_card(run.folder.adapter)["fingerprint"],
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }


def _by_field(measured: dict[str, Any], name: str) -> dict[str, float]:
    prefix = f"eval_{name}/"
    return {key.removeprefix(prefix): value for key, value in measured.items() if key.startswith(prefix)}
