"""From settings to everything that the first step needs: model, tokens, plan, trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from triagekit.data.dataset import ProcessedDataset
from triagekit.errors import TriageError
from triagekit.files.fingerprint import fingerprint_json
from triagekit.modeling.precision import precision_name, resolve_precision
from triagekit.progress import Progress
from triagekit.training.arguments import sft_config, steps_per_epoch
from triagekit.training.inputs import TrainingInputs, load_inputs
from triagekit.training.plan_file import keep_plan, make_plan
from triagekit.training.process_group import ProcessGroup, form_group, pin_device
from triagekit.training.ranks import Ranks
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings
from triagekit.training.stopping import StopRequest

if TYPE_CHECKING:
    from triagekit.modeling.adapters import TrainableReport
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.training.collator import Collator
    from triagekit.training.examples import Examples
    from triagekit.training.trainer import TriageTrainer


@dataclass(frozen=True)
class TrainableModel:
    """A base with its adapter attached, what of it is trained, and the packing it can be trained with."""

    model: Any
    report: TrainableReport
    packing: str


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
    from triagekit.modeling.quiet import quiet_bars

    quiet_bars()
    inputs = load_inputs(settings, dataset, progress, notes)
    made = load_trainable(settings, inputs.segments, ranks, notes)
    plan = make_plan(settings, folder.name, inputs, made.report, made.packing, ranks)
    if ranks.main:
        keep_plan(folder, plan)
    group = form_group(ranks)
    group.check_equal(
        fingerprint_json(plan),
        "The processes of this run do not see the same data, base or settings. Use a file system that all nodes share, "
        "and the same triagekit everywhere.",
    )
    trainer = _build_trainer(settings, folder, made, inputs, stop, progress, group, notes)
    texts = [row.text for row in inputs.train_rows[:16]]
    return PreparedRun(settings, folder, dataset, inputs.segments, made.report, trainer, plan, texts)


def load_trainable(
    settings: TrainSettings, segments: SegmentTokenizer, ranks: Ranks, notes: Callable[[str], None]
) -> TrainableModel:
    """The base on this process's device with the adapter's first weights, which follow from the seed."""
    import transformers

    from triagekit.modeling.adapters import attach_adapter, output_token_ids
    from triagekit.modeling.base import load_base

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
    return TrainableModel(model, report, _packing(model, settings, notes))


def collator_for(packing: str, segments: SegmentTokenizer) -> Collator:
    """What makes a batch of rows."""
    from triagekit.training.collator import PaddingCollator
    from triagekit.training.packing import SharedPrefixCollator

    if packing == "shared_prefix":
        return SharedPrefixCollator()
    return PaddingCollator(segments.tokenizer.pad_token_id)


def _build_trainer(
    settings: TrainSettings,
    folder: RunFolder,
    made: TrainableModel,
    inputs: TrainingInputs,
    stop: StopRequest,
    progress: Progress,
    group: ProcessGroup,
    notes: Callable[[str], None],
) -> TriageTrainer:
    from triagekit.training.field_metrics import FieldMetrics
    from triagekit.training.flow import RunFlow
    from triagekit.training.label_choices import label_field_numbers
    from triagekit.training.objective import Objective
    from triagekit.training.trainer import TriageTrainer

    segments, train, val = inputs.segments, inputs.train, inputs.val
    collator = collator_for(made.packing, segments)
    flow = RunFlow(stop, progress, steps_per_epoch(settings, len(train)))
    trainer = TriageTrainer(
        made.model,
        settings,
        sft_config(settings, folder, inputs.steps(settings), evaluate=len(val) > 0, ranks=group.ranks),
        train_columns=train.columns,
        eval_batches=_sorted_batches(val, settings.batch.eval, collator),
        collator=collator,
        tokenizer=segments.tokenizer,
        sampler=inputs.sampler(settings),
        objective=Objective(settings.loss, label_field_numbers(segments.schema)),
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
    # LLM.int8 (arXiv 2208.07339) keeps the columns apart in which any row of the batch has an outlier.
    eight_bit = settings.quantization is not None and settings.quantization.bits == 8
    then = "An 8-bit base rounds a row together with its batch" if eight_bit else "The result is the same, only slower"
    notes(f"Rows are padded, not packed: {reason}. {then}.")
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
