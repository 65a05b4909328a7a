"""The pre-training loop: plain AdamW in float32 on the CPU; a killed run goes on from its last checkpoint, bit for bit."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from triagekit.files.atomic import atomic_path
from triagekit.files.fingerprint import fingerprint_json
from triagekit.modeling.base_build.packing import PackedBatch, pack
from triagekit.modeling.base_build.settings import ScheduleSettings, TinyBaseSettings
from triagekit.modeling.base_build.stream import PretrainingStream
from triagekit.modeling.forward import hidden_states, project_to_logits
from triagekit.progress import Progress, SilentProgress

CHECKPOINT = "pretraining.safetensors"
_BETAS = (0.9, 0.95)


def new_model(tokenizer: PreTrainedTokenizerBase, settings: TinyBaseSettings) -> Qwen2ForCausalLM:
    """The model with random weights of the recipe's seed, float32."""
    shape = settings.architecture
    config = Qwen2Config(
        vocab_size=settings.tokenizer.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(settings.seed)
    return Qwen2ForCausalLM(config)


def learning_rate(step: int, schedule: ScheduleSettings) -> float:
    """Rate of step `step` (from 0), straight between the schedule's points, as at the last one behind it."""
    points = schedule.rate_points
    for (start, low), (end, high) in pairwise(points):
        if step < end:
            return schedule.learning_rate * (low + (high - low) * (step - start) / (end - start))
    return schedule.learning_rate * points[-1][1]


def pretrain(
    tokenizer: PreTrainedTokenizerBase,
    settings: TinyBaseSettings,
    work: Path,
    progress: Progress | None = None,
) -> tuple[Qwen2ForCausalLM, dict[str, Any]]:
    """Train and return the model with its history: {"curve": [...], "evaluations": [...], "seconds", "tokens", …}.

    `work` keeps the checkpoint; the same call after a kill goes on from it.
    """
    with _reproducible(settings.threads):
        return _pretrain(tokenizer, settings, work, progress or SilentProgress())


@contextmanager
def _reproducible(threads: int) -> Iterator[None]:
    """Fixed thread count and deterministic kernels, as before afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def _pretrain(
    tokenizer: PreTrainedTokenizerBase, settings: TinyBaseSettings, work: Path, progress: Progress
) -> tuple[Qwen2ForCausalLM, dict[str, Any]]:
    schedule = settings.schedule
    model = new_model(tokenizer, settings)
    optimizer = _optimizer(model, schedule)
    stream = PretrainingStream(tokenizer, settings)
    unseen = {
        name: [pack([group], 0.0) for group in stream.unseen(settings.evaluation_groups, taxonomies_too)]
        for name, taxonomies_too in (("unseen_taxonomies", True), ("known_taxonomies", False))
    }
    history: dict[str, Any] = {"curve": [], "evaluations": [], "window": [], "seconds": 0.0, "tokens": 0}
    start = _resume(model, optimizer, settings, work, history)
    progress.start("pre-training", schedule.steps - start, "steps")
    began = time.monotonic() - history["seconds"]
    model.train()
    for step in range(start, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        stage = settings.stage_of(step)
        batch = pack(stream.step(step), stage.text_weight, stage.skeleton_weight)
        loss, record_loss = _losses(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        history["window"].append(float(record_loss))
        history["tokens"] += int((batch.weights > 0).sum())
        history["seconds"] = time.monotonic() - began
        done = step + 1
        progress.advance(record_loss=history["window"][-1])
        if done % schedule.log_every == 0 or done == schedule.steps:
            mean = sum(history["window"]) / len(history["window"])
            history["curve"].append({"step": done, "record_loss": round(mean, 4), "seconds": round(history["seconds"])})
            history["window"] = []
        if done % schedule.evaluate_every == 0 or done == schedule.steps:
            measured = {name: evaluate(model, batches) for name, batches in unseen.items()}
            history["evaluations"].append({"step": done, **measured})
            model.train()
        if done % schedule.checkpoint_every == 0:
            _save(model, optimizer, settings, work, history, done)
    progress.finish()
    model.eval()  # type: ignore[no-untyped-call]
    return model, history


@torch.no_grad()
def evaluate(model: Qwen2ForCausalLM, batches: Sequence[PackedBatch]) -> dict[str, float]:
    """Mean loss of record tokens, share of them that are the most probable one, share of field values wholly so."""
    model.eval()  # type: ignore[no-untyped-call]
    total, right, count = 0.0, 0, 0
    values_right, values = 0, 0
    for batch in batches:
        logits, targets = _logits(model, batch, batch.record)
        total += float(functional.cross_entropy(logits, targets, reduction="sum"))
        hit = logits.argmax(-1) == targets
        right, count = right + int(hit.sum()), count + len(targets)
        owners = batch.fields[batch.record]
        for owner in torch.unique(owners[owners >= 0]):
            values_right += int(hit[owners == owner].all())
            values += 1
    return {
        "record_loss": round(total / count, 4),
        "token_accuracy": round(right / count, 4),
        "value_accuracy": round(values_right / max(1, values), 4),
    }


def _logits(model: Qwen2ForCausalLM, batch: PackedBatch, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    hidden, _ = hidden_states(
        model, batch.input_ids, attention_mask=batch.attention, position_ids=batch.position_ids, use_cache=False
    )
    return project_to_logits(model, hidden[chosen]), batch.targets[chosen]


def _losses(model: Qwen2ForCausalLM, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = batch.weights > 0
    logits, targets = _logits(model, batch, chosen)
    each = functional.cross_entropy(logits, targets, reduction="none")
    weights = batch.weights[chosen]
    on_record = batch.record[chosen]
    return (each * weights).sum() / weights.sum(), each.detach()[on_record].mean()


def _optimizer(model: Qwen2ForCausalLM, schedule: ScheduleSettings) -> torch.optim.AdamW:
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    rest = [weight for weight in model.parameters() if weight.ndim < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=schedule.learning_rate,
        betas=_BETAS,
    )


def _recipe_fingerprint(settings: TinyBaseSettings) -> str:
    """What must be equal for a checkpoint to be continued: all but how long and how often."""
    data = settings.model_dump(mode="json")
    for name in ("steps", "log_every", "evaluate_every", "checkpoint_every"):
        del data["schedule"][name]
    return fingerprint_json(data)


def _save(
    model: Qwen2ForCausalLM,
    optimizer: torch.optim.AdamW,
    settings: TinyBaseSettings,
    work: Path,
    history: dict[str, Any],
    step: int,
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters():
        state = optimizer.state[weight]
        tensors[f"weight/{name}"] = weight.detach().contiguous()
        tensors[f"mean/{name}"] = state["exp_avg"]
        tensors[f"square/{name}"] = state["exp_avg_sq"]
    facts = {"step": str(step), "recipe": _recipe_fingerprint(settings), "history": json.dumps(history)}
    with atomic_path(work / CHECKPOINT) as temporary:
        save_file(tensors, temporary, metadata=facts)


def _resume(
    model: Qwen2ForCausalLM,
    optimizer: torch.optim.AdamW,
    settings: TinyBaseSettings,
    work: Path,
    history: dict[str, Any],
) -> int:
    """Load the checkpoint of this recipe if there is one; the number of steps done. Writes are atomic: it is whole."""
    path = work / CHECKPOINT
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as stored:
        facts = stored.metadata()
        step = int(facts["step"])
        if facts["recipe"] != _recipe_fingerprint(settings) or step > settings.schedule.steps:
            return 0
        history.update(json.loads(facts["history"]))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(stored.get_tensor(f"weight/{name}"))
                optimizer.state[weight] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": stored.get_tensor(f"mean/{name}"),
                    "exp_avg_sq": stored.get_tensor(f"square/{name}"),
                }
    return step
