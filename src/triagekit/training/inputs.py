"""What a run is trained and measured on: the chosen rows of a data set as tokens, and the prompts they stand in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from triagekit.data.dataset import ProcessedDataset
from triagekit.data.rows import Row
from triagekit.errors import TriageError
from triagekit.progress import Progress
from triagekit.training.arguments import total_steps
from triagekit.training.settings import TrainSettings

if TYPE_CHECKING:
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.training.examples import Examples
    from triagekit.training.sampler import EpochSampler


@dataclass(frozen=True)
class TrainingInputs:
    """Tokenised rows of the train and val splits. `variants`: the prompt variant of each training row; `fields`: the fields that
    its record is written with (None: all); `weights`: those of class labels, by field and value."""

    dataset: ProcessedDataset
    segments: SegmentTokenizer
    train_rows: list[Row]
    val_rows: list[Row]
    train: Examples
    val: Examples
    variants: list[int]
    fields: list[tuple[str, ...] | None]
    weights: dict[str, dict[str, float]]

    def steps(self, settings: TrainSettings) -> int:
        """Optimizer steps of the whole run."""
        return total_steps(settings, len(self.train))

    def sampler(self, settings: TrainSettings) -> EpochSampler:
        """The order in which the training rows are shown."""
        from triagekit.training.sampler import EpochSampler

        return EpochSampler(
            self.train.lengths, settings.batch.effective, settings.seed, self.train.draw_weights, self.variants
        )


def load_inputs(
    settings: TrainSettings, dataset: ProcessedDataset, progress: Progress, notes: Callable[[str], None]
) -> TrainingInputs:
    """Choose and tokenise the rows. Raises TriageError when there are none, or when prompts leave no room for tickets."""
    from triagekit.modeling.base import load_tokenizer
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.modeling.template import PromptTemplate
    from triagekit.training import examples
    from triagekit.training.label_choices import class_weights

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
    fields = examples.fields_written(segments.schema, len(train_rows), settings.labels_alone_share, settings.seed)
    train = examples.build_examples(
        train_rows,
        segments,
        split="train",
        variants=shown,
        fields=fields,
        weights=weights,
        balance=settings.sampling.field,
        with_fields=not settings.loss.is_plain,
        progress=progress,
    )
    # Validation sees the prompt that scoring will use.
    val = examples.build_examples(
        val_rows, segments, split="val", variants=[0] * len(val_rows), with_fields=True, progress=progress
    )
    if train.tickets_cut:
        notes(
            f"{train.tickets_cut} of {len(train_rows)} training tickets are longer than prompt.max_length "
            f"{settings.prompt.max_length} allows and were cut at their end ({train.ticket_tokens_cut} tokens)."
        )
    if not val_rows:
        notes(f"{dataset.folder} has no validation rows: the last weights become the adapter, nothing stops early.")
    return TrainingInputs(dataset, segments, train_rows, val_rows, train, val, shown, fields, weights)
