"""From settings to everything that the first step needs: model, tokens, plan, trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from triagekit.data.dataset import ProcessedDataset
from triagekit.errors import Problem, ProblemsError, TriageError
from triagekit.files.atomic import write_json
from triagekit.files.fingerprint import fingerprint_json
from triagekit.modeling.precision import precision_name, resolve_precision
from triagekit.progress import Progress
from triagekit.training.arguments import evaluation_interval, sft_config, steps_per_epoch, total_steps
from triagekit.training.process_group import ProcessGroup, form_group, pin_device
from triagekit.training.ranks import Ranks
from triagekit.training.run_folder import RunFolder
from triagekit.training.rungs import accumulation
from triagekit.training.settings import TrainSettings
from triagekit.training.stopping import StopRequest

if TYPE_CHECKING:
    from triagekit.modeling.adapters import TrainableReport
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.training.collator import Collator
    from triagekit.training.examples import Examples
    from triagekit.training.trainer import TriageTrainer

FINGERPRINTS = ("data_fingerprint", "schema_fingerprint", "base_fingerprint", "template_fingerprint")
AS_COMPUTED = ("precision", "quantization", "max_length")
"""What a rung of the hardware ladder may have decided in place of the settings."""


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to start or to go on."""

    settings: TrainSettings
    folder: RunFolder
    dataset: ProcessedDataset
    segments: SegmentTokenizer
    report: TrainableReport
    trainer: TriageTrainer
    plan: dict[str, Any]
    sample_texts: list[str]


def prepare_run(
    settings: TrainSettings,
    folder: RunFolder,
    dataset: ProcessedDataset,
    stop: StopRequest,
    progress: Progress,
    notes: Callable[[str], None],
    ranks: Ranks = Ranks(),  # noqa: B008
) -> PreparedRun:
    """Load, tokenise, attach, plan; then meet the other processes and build the trainer. Writes plan.json, or refuses
    when the folder's plan was made from other data, schema, base or template (TriageError naming which).

    All that takes long comes before the meeting, and every process does it for itself: the results are compared.
    """
    import transformers

    from triagekit.modeling.adapters import attach_adapter, output_token_ids
    from triagekit.modeling.base import base_fingerprint, load_base, load_tokenizer
    from triagekit.modeling.quiet import quiet_bars
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.modeling.template import PromptTemplate
    from triagekit.training import examples
    from triagekit.training.label_choices import class_weights

    quiet_bars()
    tokenizer = load_tokenizer(settings.base)
    segments = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, dataset.schema, settings.prompt))
    variants = segments.template.variants
    for variant in range(variants):
        segments.ticket_room(variant)
    train_rows = examples.choose_rows(dataset.rows("train"), settings.max_train_rows, settings.seed)
    val_rows = examples.choose_rows(dataset.rows("val"), settings.evaluation.max_rows, settings.seed)
    if not train_rows:
        raise TriageError(f"{dataset.folder}: the train split has no rows.")
    weights = class_weights(settings, train_rows)
    shown = [
        examples.variant_of(row, settings.seed, settings.prompt.strategy, variants) for row in range(len(train_rows))
    ]
    train = examples.build_examples(
        train_rows,
        segments,
        split="train",
        variants=shown,
        weights=weights,
        balance=settings.sampling.field,
        progress=progress,
    )
    # Validation sees the prompt that scoring will use.
    val = examples.build_examples(
        val_rows, segments, split="val", variants=[0] * len(val_rows), with_fields=True, progress=progress
    )
    _note_cut(train, len(train_rows), settings, notes)
    if not val_rows:
        notes(f"{dataset.folder} has no validation rows: the last weights become the adapter, nothing stops early.")

    # Before the adapter's first weights are drawn, so that they follow from the seed.
    transformers.set_seed(settings.seed)
    device = pin_device(ranks)
    # ZeRO-3 takes the whole model from the CPU, one weight after the other.
    place = "cpu" if ranks.sharding == "zero3" else str(device)
    model = load_base(
        settings.base, precision_name(resolve_precision(settings.precision)), settings.quantization, place
    )
    wants_tokens = settings.adapter.method == "hybrid" and settings.adapter.head == "output_tokens"
    model, report = attach_adapter(model, settings.adapter, output_token_ids(segments) if wants_tokens else None)
    packing = _packing(model, settings, notes)

    plan = {
        "name": folder.name,
        "method": settings.adapter.method,
        "steps": total_steps(settings, len(train)),
        "steps_per_epoch": steps_per_epoch(settings, len(train)),
        "effective_batch": settings.batch.effective,
        "micro_batch": settings.batch.micro,
        "accumulation": accumulation(settings, ranks.size),
        "packing": packing,
        "max_length": settings.prompt.max_length,
        "precision": precision_name(resolve_precision(settings.precision)),
        "quantization": settings.quantization and settings.quantization.model_dump(mode="json"),
        **ranks.describe(),
        "evaluate_every": evaluation_interval(settings, total_steps(settings, len(train))),
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "schema": dataset.schema.name,
        "schema_fingerprint": dataset.schema.fingerprint,
        "base": settings.base,
        "base_fingerprint": base_fingerprint(settings.base),
        "template_fingerprint": segments.template.fingerprint,
        "prompt_variants": variants,
        "train": train.statistics(),
        "val": val.statistics() if val_rows else {"rows": 0},
        "class_weights": weights,
        "trainable": report.trainable,
        "total": report.total,
        "share": report.share,
        "matched": report.matched,
    }
    plan["conditions_fingerprint"] = fingerprint_json(conditions(settings, plan))
    if ranks.main:
        _keep_plan(folder, plan)
    group = form_group(ranks)
    group.check_equal(
        fingerprint_json(plan),
        "The processes of this run do not see the same data, base or settings. Use a file system that all nodes share, "
        "and the same triagekit everywhere.",
    )
    trainer = _build_trainer(
        settings, folder, model, segments, train, val, shown, packing, stop, progress, group, notes
    )
    return PreparedRun(
        settings, folder, dataset, segments, report, trainer, plan, [row.text for row in train_rows[:16]]
    )


def conditions(settings: TrainSettings, plan: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for a comparison of methods to be fair, as it really is on this rung.

    Method, adapter, learning rate (each method has its own best) and seed (comparisons run over several) are left out on
    purpose.
    """
    optimizer = settings.optimizer.model_dump(mode="json", exclude={"learning_rate"})
    return {
        **{name: plan[name] for name in (*FINGERPRINTS, "steps", "effective_batch", *AS_COMPUTED)},
        "train_rows": plan["train"]["rows"],
        "val_rows": plan["val"]["rows"],
        "optimizer": optimizer,
        "evaluation": settings.evaluation.model_dump(mode="json"),
        "sampling": settings.sampling.model_dump(mode="json"),
        "class_weights": settings.class_weights,
    }


def _keep_plan(folder: RunFolder, plan: dict[str, Any]) -> None:
    before = folder.read(folder.plan)
    changed = [
        Problem(name.replace("_", " "), f"was {before[name]}, is {plan[name]}.")
        for name in FINGERPRINTS
        if before and before.get(name) != plan[name]
    ]
    for name in ("max_length", "quantization"):
        if before.get(name, plan[name]) != plan[name]:
            hint = f"Rung {plan['rung']} changes it; choose one that keeps it." if plan["rung"] else ""
            changed.append(Problem(name.replace("_", " "), f"was {before[name]}, is {plan[name]}.", hint))
    if changed:
        raise ProblemsError(
            f"{folder.folder} was begun with other input than it would go on with. Give this run its own name (--name) "
            "or restore the input:",
            changed,
        )
    write_json(folder.plan, plan)


def _note_cut(train: Examples, rows: int, settings: TrainSettings, notes: Callable[[str], None]) -> None:
    if train.tickets_cut:
        notes(
            f"{train.tickets_cut} of {rows} training tickets are longer than prompt.max_length "
            f"{settings.prompt.max_length} allows and were cut at their end ({train.ticket_tokens_cut} tokens)."
        )


def _build_trainer(
    settings: TrainSettings,
    folder: RunFolder,
    model: Any,
    segments: SegmentTokenizer,
    train: Examples,
    val: Examples,
    variants: list[int],
    packing: str,
    stop: StopRequest,
    progress: Progress,
    group: ProcessGroup,
    notes: Callable[[str], None],
) -> TriageTrainer:
    from triagekit.training.collator import PaddingCollator
    from triagekit.training.field_metrics import FieldMetrics
    from triagekit.training.flow import RunFlow
    from triagekit.training.packing import SharedPrefixCollator
    from triagekit.training.sampler import EpochSampler
    from triagekit.training.trainer import TriageTrainer

    collator: Collator = PaddingCollator(segments.tokenizer.pad_token_id)
    if packing == "shared_prefix":
        collator = SharedPrefixCollator()
    steps = total_steps(settings, len(train))
    flow = RunFlow(stop, progress, steps_per_epoch(settings, len(train)))
    trainer = TriageTrainer(
        model,
        settings,
        sft_config(settings, folder, steps, evaluate=len(val) > 0, ranks=group.ranks),
        train_columns=train.columns,
        eval_batches=_sorted_batches(val, settings.batch.eval, collator),
        collator=collator,
        tokenizer=segments.tokenizer,
        sampler=EpochSampler(train.lengths, settings.batch.effective, settings.seed, train.draw_weights, variants),
        callbacks=[flow],
        group=group,
        field_metrics=FieldMetrics(segments.schema),
        notes=notes,
    )
    flow.trainer = trainer
    check_distribution(trainer, group.ranks)
    return trainer


def _packing(model: Any, settings: TrainSettings, notes: Callable[[str], None]) -> str:
    """The packing that this model can be trained with."""
    from triagekit.modeling.shared_prefix.check import why_not_packed

    if settings.batch.packing == "none":
        return "none"
    reason = why_not_packed(model)
    if reason is None:
        return settings.batch.packing
    notes(f"Rows are padded, not packed: {reason}. The result is the same, only slower.")
    return "none"


def check_distribution(trainer: TriageTrainer, ranks: Ranks) -> None:
    """Raise TriageError unless accelerate does what was asked for: it is known to fall back to fewer processes or to
    plain DDP without a word."""
    from accelerate.utils import DistributedType

    accelerator = trainer.accelerator
    plain = {DistributedType.MULTI_GPU, DistributedType.MULTI_CPU} if ranks.size > 1 else {DistributedType.NO}
    wanted = {DistributedType.DEEPSPEED} if ranks.deepspeed else plain
    stage = (
        accelerator.state.deepspeed_plugin.zero_stage if ranks.deepspeed and accelerator.state.deepspeed_plugin else 0
    )
    if (
        accelerator.num_processes != ranks.size
        or accelerator.distributed_type not in wanted
        or (ranks.deepspeed and f"zero{stage}" != ranks.sharding)
    ):
        raise TriageError(
            f"{ranks.size} processes with {ranks.sharding} were asked for, but accelerate runs "
            f"{accelerator.num_processes} as {accelerator.distributed_type}"
            + (f" stage {stage}" if stage else "")
            + ". Unset ACCELERATE_* variables of your own and start again."
        )


def _sorted_batches(val: Examples, size: int, collator: Collator) -> list[Any]:
    """Validation batches of rows of like length: less padding, the same sums."""
    order = sorted(range(len(val)), key=lambda row: val.lengths[row])
    rows = [{name: column[row] for name, column in val.columns.items()} for row in order]
    return [collator(rows[start : start + size]) for start in range(0, len(rows), size)]
