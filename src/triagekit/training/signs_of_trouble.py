"""Signs that a run will not learn as it could, seen before its first step: what was found, what is usual, what to set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from triagekit.data.rows import Row
from triagekit.schema import Schema, TextField
from triagekit.training.learning_rate_ranges import usual_rates
from triagekit.training.settings import TrainSettings

WARMUP_SHARE = 0.05
EFFECTIVE_BATCH = 32
FEWEST_STEPS = 40
CUT_SHARE = 0.05
ABOVE_UNIFORM = 1.0
"""Nats above ln(vocabulary) that the loss of one of this project's small bases may begin with: 7.8 to 9.7 were seen, at 8.7."""
BELOW_UNIFORM = 1.0
"""Nats below it that the loss of any other base begins with at least. Random weights were seen within 0.2 of it."""
LEARNT_LOSS = 0.1
VALUES_SHOWN = 5
ROUNDING = 1e-9
"""A setting that is the limit itself is no sign."""


@dataclass(frozen=True)
class Sign:
    """One warning."""

    found: str
    usual: str
    advice: str

    def __str__(self) -> str:
        return f"{self.found} {self.usual} {self.advice}"

    def as_dict(self) -> dict[str, str]:
        """For plan.json."""
        return asdict(self)


def signs_in_plan(
    settings: TrainSettings,
    steps: int,
    train: Mapping[str, Any],
    weights: int,
    absent: Mapping[str, Sequence[str]],
) -> list[Sign]:
    """Every sign in settings and data. `train`: statistics of the training rows; `weights`: those of the base; `absent`:
    field → values that no training row has."""
    found = [
        _warmup(settings, steps),
        _learning_rate(settings, weights),
        _effective_batch(settings),
        _steps(settings, steps),
        _cut(settings, train),
        *(_absent(name, values) for name, values in absent.items()),
    ]
    return [sign for sign in found if sign is not None]


def highest_first_loss(vocabulary: int, own_base: bool) -> float:
    """The most that a loss begins with, in nats a token, where base and tokenizer are sound: below the ln(vocabulary) of a
    model that knows nothing. `own_base`: the embedded one or one like it, whose wrong certainty about other schemas than its
    made-up ones costs more than knowing nothing."""
    return math.log(vocabulary) + (ABOVE_UNIFORM if own_base else -BELOW_UNIFORM)


def signs_in_first_loss(loss: float, vocabulary: int, own_base: bool) -> list[Sign]:
    """Signs in the loss before the first step, in nats a token, of a model with so many tokens to choose from; `own_base`
    as in highest_first_loss."""
    highest = highest_first_loss(vocabulary, own_base)
    usual = (
        f"Usual of {'a small base of this project' if own_base else 'a pretrained base'}: between {LEARNT_LOSS:g} and "
        f"{highest:.2f}; a model that knows nothing has ln({vocabulary:,}) = {math.log(vocabulary):.2f}."
    )
    if not math.isfinite(loss):
        return [
            Sign(f"The loss of the first batch is {loss}.", usual, "Set precision=fp32, and check the base's files.")
        ]
    if loss > highest:
        return [
            Sign(
                f"The loss of the first batch is {loss:.2f}.",
                usual,
                "Check that base and tokenizer belong together, and that the base's files are whole and its weights trained "
                "ones: random weights begin like this.",
            )
        ]
    if loss < LEARNT_LOSS:
        return [
            Sign(
                f"The loss of the first batch is {loss:.3f}.",
                usual,
                "Check that the base was not trained on these rows already, and that tickets do not hold their answers "
                "(triage data inspect).",
            )
        ]
    return []


def absent_values(schema: Schema, rows: Iterable[Row]) -> dict[str, list[str]]:
    """Field → its values that no row has, for fields with fixed values; fields that lack none are left out."""
    seen: dict[str, set[str]] = {field.name: set() for field in schema.fields if not isinstance(field, TextField)}
    for row in rows:
        for name, values in seen.items():
            value = row.record.get(name)
            values.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    lacking = {
        field.name: [value for value in field.values if value not in seen[field.name]]
        for field in schema.fields
        if not isinstance(field, TextField)
    }
    return {name: values for name, values in lacking.items() if values}


def describe_signs(signs: Sequence[Sign]) -> str:
    """All of them in one note."""
    if not signs:
        return ""
    title = "1 sign of trouble:" if len(signs) == 1 else f"{len(signs)} signs of trouble:"
    return "\n".join([title, *(f"  - {sign}" for sign in signs)])


def _warmup(settings: TrainSettings, steps: int) -> Sign | None:
    share = settings.optimizer.warmup_share
    if share <= WARMUP_SHARE + ROUNDING:
        return None
    return Sign(
        f"Warm-up takes {share:.1%} of the run, {math.ceil(share * steps)} of {steps} steps.",
        f"Usual: up to {WARMUP_SHARE:.0%}; in a short run every step below the peak rate is missed.",
        "Set optimizer.warmup_share=0.03.",
    )


def _learning_rate(settings: TrainSettings, weights: int) -> Sign | None:
    rate, method = settings.optimizer.learning_rate, settings.adapter.method
    lowest, highest = usual_rates(settings.adapter, weights)
    if settings.optimizer.name == "sgd" or lowest * (1 - ROUNDING) <= rate <= highest * (1 + ROUNDING):
        return None
    middle = math.sqrt(lowest * highest)
    return Sign(
        f"The learning rate {rate:g} is {'low' if rate < lowest else 'high'} for {method} on a base of "
        f"{_millions(weights)} weights.",
        f"Usual: {lowest:g} to {highest:g}; full fine-tuning wants about a tenth of LoRA's, larger bases less.",
        f"Set optimizer.learning_rate={middle:.0e}, and try a few around it on the validation split.",
    )


def _effective_batch(settings: TrainSettings) -> Sign | None:
    rows, method = settings.batch.effective, settings.adapter.method
    if method == "full" or rows <= EFFECTIVE_BATCH:
        return None
    return Sign(
        f"The effective batch is {rows} rows.",
        f"Usual for {method}: up to {EFFECTIVE_BATCH}; low-rank updates lose more by large batches than full ones "
        "(Schulman et al. 2025).",
        f"Set batch.effective={EFFECTIVE_BATCH} or less.",
    )


def _steps(settings: TrainSettings, steps: int) -> Sign | None:
    if steps >= FEWEST_STEPS:
        return None
    return Sign(
        f"The run has {steps} optimizer steps.",
        f"Usual: {FEWEST_STEPS} at least; with fewer, most of it is warm-up and the learning of the record's form.",
        f"Set epochs={_two_digits(settings.epochs * FEWEST_STEPS / steps)} or more"
        if settings.max_steps is None
        else f"Set max_steps={FEWEST_STEPS} or more.",
    )


def _cut(settings: TrainSettings, train: Mapping[str, Any]) -> Sign | None:
    share = train["tickets_cut"] / train["rows"]
    if share <= CUT_SHARE:
        return None
    shorter = "" if settings.prompt.strategy == "implicit" else ", or prompt.strategy=implicit for a shorter prompt"
    return Sign(
        f"{share:.0%} of the training tickets ({train['tickets_cut']} of {train['rows']}) are cut at their end.",
        f"Usual: up to {CUT_SHARE:.0%}; what decides a label may stand in what is lost.",
        f"Set prompt.max_length above {settings.prompt.max_length}{shorter}.",
    )


def _absent(field: str, values: Sequence[str]) -> Sign:
    shown = ", ".join(f"'{value}'" for value in values[:VALUES_SHOWN])
    more = f" and {len(values) - VALUES_SHOWN} more" if len(values) > VALUES_SHOWN else ""
    return Sign(
        f"No training row has {field} {shown}{more}.",
        "Usual: each value of the schema occurs; one that does not is hardly ever predicted.",
        "Add rows that have it, or take it out of the schema.",
    )


def _millions(weights: int) -> str:
    return f"{weights / 1e9:.1f} B" if weights >= 1e9 else f"{weights / 1e6:.1f} M"


def _two_digits(value: float) -> str:
    return f"{math.ceil(value * 10) / 10:g}"
