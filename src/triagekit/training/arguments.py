"""Our settings in TRL's words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from triagekit.errors import Problem, ProblemsError, TriageError
from triagekit.modeling.precision import precision_name, resolve_precision
from triagekit.training.ranks import Ranks
from triagekit.training.run_folder import RunFolder
from triagekit.training.rungs import accumulation
from triagekit.training.settings import Schedule, TrainSettings

if TYPE_CHECKING:
    from trl.trainer.sft_config import SFTConfig

OPTIMIZERS = {
    # Fused: one kernel for all weights of a step; the same update.
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}
LOWEST_SHARE = 0.1
"""Of the peak learning rate, where cosine_with_min_lr ends."""
DECAY_SHARE = 0.2
"""Of the steps, in which warmup_stable_decay falls."""


def total_steps(settings: TrainSettings, rows: int) -> int:
    """Optimizer steps of the whole run; the last step of an epoch takes the rows that are left."""
    planned = math.ceil(settings.epochs * steps_per_epoch(settings, rows))
    return planned if settings.max_steps is None else settings.max_steps


def steps_per_epoch(settings: TrainSettings, rows: int) -> int:
    """Optimizer steps of one pass over the rows."""
    return math.ceil(rows / settings.batch.effective)


def evaluation_interval(settings: TrainSettings, steps: int) -> int:
    """Optimizer steps between two validation measurements; rounded up, so that none falls just before the last step."""
    return max(1, math.ceil(settings.evaluation.every_share * steps - 1e-9))


def schedule_options(schedule: Schedule, steps: int) -> dict[str, float]:
    """What transformers' schedule of this name has to be told."""
    if schedule == "cosine_with_min_lr":
        return {"min_lr_rate": LOWEST_SHARE}
    if schedule == "warmup_stable_decay":
        return {"num_decay_steps": math.ceil(DECAY_SHARE * steps)}
    return {}


def sft_config(settings: TrainSettings, run: RunFolder, steps: int, evaluate: bool, ranks: Ranks) -> SFTConfig:
    """TRL's configuration for this run, in one process of `ranks`.

    Progress bars, reports, checkpoint rotation and the choice of the best checkpoint are this room's own, so the
    libraries' are off. `max_steps` is always given: it fixes the schedule whatever the data loader's length.
    """
    from trl.trainer.sft_config import SFTConfig

    from triagekit.training.zero import deepspeed_config

    interval = evaluation_interval(settings, steps)
    optimizer = settings.optimizer
    dtype = check_precision(settings, ranks)
    options: dict[str, Any] = {
        "output_dir": str(run.checkpoints),
        "run_name": run.name,
        "max_steps": steps,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch.micro,
        "per_device_eval_batch_size": settings.batch.eval,
        "gradient_accumulation_steps": accumulation(settings, ranks.size),
        "learning_rate": optimizer.learning_rate,
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "adam_epsilon": optimizer.epsilon,
        "max_grad_norm": optimizer.max_grad_norm,
        "lr_scheduler_type": "constant_with_warmup" if optimizer.schedule == "constant" else optimizer.schedule,
        "lr_scheduler_kwargs": schedule_options(optimizer.schedule, steps),
        "warmup_steps": math.ceil(optimizer.warmup_share * steps),
        "optim": OPTIMIZERS[optimizer.name],
        "seed": settings.seed,
        "fp16": dtype == "fp16",
        # DeepSpeed's own bf16 rounds the trained weights too; under it the trainer computes in bfloat16 by itself.
        "bf16": dtype == "bf16" and not ranks.deepspeed,
        "deepspeed": deepspeed_config(ranks) if ranks.deepspeed else None,
        "ddp_find_unused_parameters": False,
        # A broadcast in every forward, also in those of an evaluation whose batches don't divide evenly.
        "ddp_broadcast_buffers": False,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "eval_strategy": "steps" if evaluate else "no",
        "eval_steps": interval if evaluate else None,
        "save_strategy": "steps",
        "save_steps": settings.checkpoints.every_steps or interval,
        "save_total_limit": None,
        "load_best_model_at_end": False,
        "metric_for_best_model": f"eval_{settings.evaluation.best_metric}" if evaluate else None,
        "greater_is_better": settings.evaluation.best_metric != "loss",
        "logging_steps": settings.log_every_steps,
        "prediction_loss_only": True,
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,
        "packing": False,
        "disable_tqdm": True,
        "report_to": "none",
        "log_level": "error",
        "dataloader_pin_memory": not _on_cpu(),
        "use_cpu": _on_cpu(),
    }
    return SFTConfig(**options)


def check_precision(settings: TrainSettings, ranks: Ranks) -> str:
    """The number type of the computation here. Raises TriageError for one that the devices or the sharding cannot do."""
    dtype = precision_name(resolve_precision(settings.precision))
    if dtype == "fp16" and _on_cpu():
        raise TriageError("precision: fp16 needs a GPU (its loss scaling runs there only). Set precision: auto.")
    check_sharding(settings, dtype, ranks)
    return dtype


def check_sharding(settings: TrainSettings, dtype: str, ranks: Ranks) -> None:
    """Refuse what would train something else under DeepSpeed. Raises ProblemsError with every such setting."""
    from triagekit.training.zero import SHARDED_OPTIMIZERS

    if not ranks.deepspeed:
        return
    problems = []
    if dtype == "fp16":
        problems.append(Problem("precision", "fp16 is not done under DeepSpeed.", "Take DDP, or bf16 where there is."))
    if settings.optimizer.name not in SHARDED_OPTIMIZERS:
        text = f"'{settings.optimizer.name}' looks at whole weights, DeepSpeed gives it shards."
        problems.append(Problem("optimizer.name", text, "Take adamw, or DDP."))
    if ranks.sharding == "zero3" and settings.quantization is not None:
        problems.append(Problem("quantization", "quantised weights are not sharded by ZeRO-3.", "Take DDP or ZeRO-2."))
    if problems:
        raise ProblemsError(f"These settings do not go with {ranks.sharding}:", problems)


def _on_cpu() -> bool:
    import torch

    return not torch.cuda.is_available()
