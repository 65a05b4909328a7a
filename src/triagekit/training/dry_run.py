"""What a run would do, and what is strange about it, without writing anything: everything up to its first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from triagekit.modeling.adapters import TrainableReport
from triagekit.progress import Progress
from triagekit.settings import to_yaml
from triagekit.training.inputs import TrainingInputs
from triagekit.training.ranks import Ranks
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings


@dataclass(frozen=True)
class RowShown:
    """A training row as the model reads it. `parts`: its text in pieces, each with whether it is trained."""

    id: str
    tokens: int
    trained_tokens: int
    ticket_tokens_cut: int
    parts: list[tuple[str, bool]]


@dataclass(frozen=True)
class DryRun:
    """The plan with the first step's loss and every sign of trouble in it, one row of that step, what is trained."""

    plan: dict[str, Any]
    row: RowShown
    report: TrainableReport


def dry_run(settings: TrainSettings, ranks: Ranks, progress: Progress, notes: Callable[[str], None]) -> DryRun:
    """Do what a start of this run does before its first step, in this process alone; `ranks` are those that a real start
    would have. Writes nothing.

    Raises what the start would raise, also for a run folder that holds another run.
    """
    from triagekit.data.dataset import ProcessedDataset
    from triagekit.modeling.quiet import quiet_bars, quiet_libraries
    from triagekit.training.train import check_input, effective_settings, memory_advice

    folder = RunFolder(Path(settings.output) / settings.run_name)
    if folder.config.is_file():
        RunFolder.create(folder.folder, settings.model_dump(mode="json"), to_yaml(settings))
        notes(f"{folder.folder} holds this run already: a start would go on with it, or find it finished.")
    effective = effective_settings(settings, ranks)
    dataset = ProcessedDataset.open(settings.data)
    check_input(effective, dataset)
    quiet_libraries()
    quiet_bars()
    from triagekit.training.arguments import check_precision
    from triagekit.training.first_step import add_first_loss, first_step_rows, vocabulary_of
    from triagekit.training.inputs import load_inputs
    from triagekit.training.plan_file import make_plan
    from triagekit.training.prepare import load_trainable

    check_precision(effective, ranks)
    with memory_advice(effective):
        inputs = load_inputs(effective, dataset, progress, notes)
        made = load_trainable(effective, inputs.segments, ranks, notes)
        plan = make_plan(effective, folder.name, inputs, made.report, made.packing, ranks)
        rows = first_step_rows(inputs.sampler(effective).order(0), effective)
        loss = _loss(made.model, made.packing, inputs, rows, effective)
        add_first_loss(plan, loss, vocabulary_of(made.model), effective.base)
    return DryRun(plan, shown_row(inputs, rows[0]), made.report)


def shown_row(inputs: TrainingInputs, number: int) -> RowShown:
    """Training row `number` as text again, cut where what is trained begins and ends."""
    from triagekit.training.collator import IGNORED

    row, segments = inputs.train_rows[number], inputs.segments
    ids, labels = (inputs.train.columns[name][number] for name in ("input_ids", "labels"))
    pieces = groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != IGNORED)
    parts = [(segments.decode([token for token, _ in piece]), trained) for trained, piece in pieces]
    example = segments.encode_example(row.text, row.record, inputs.variants[number], inputs.fields[number])
    return RowShown(row.id, len(ids), sum(label != IGNORED for label in labels), example.ticket_tokens_cut, parts)


def _loss(model: Any, packing: str, inputs: TrainingInputs, rows: list[int], settings: TrainSettings) -> float:
    from triagekit.modeling.shared_prefix.attention import attend_by_shared_prefix
    from triagekit.training.first_step import first_step_loss
    from triagekit.training.loss import compute_losses_in_forward
    from triagekit.training.prepare import collator_for
    from triagekit.training.process_group import ProcessGroup

    compute_losses_in_forward(model)
    if packing == "shared_prefix":
        attend_by_shared_prefix(model)
    collator = collator_for(packing, inputs.segments)
    return first_step_loss(model, inputs.train.columns, rows, settings, collator, ProcessGroup())
