"""The plan of a run: every rung of the ladder judged for its settings, without torch and without a GPU."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from triagekit.errors import TriageError
from triagekit.hardware.choose import Assessment, assess_ladder
from triagekit.hardware.devices import Device
from triagekit.hardware.ladder import Ladder, Rung, load_ladder
from triagekit.hardware.memory import TrainingLoad
from triagekit.hardware.model_shape import ModelShape, model_shape
from triagekit.hardware.rates import Workload, find_rate, known_rates
from triagekit.training.rungs import apply_rung
from triagekit.training.settings import TrainSettings

CHARACTERS_PER_TOKEN = 2.5
"""Of a record, whose keys, quotes and short values make shorter tokens than prose."""

UNKNOWN_RECORD_TOKENS = 128
"""Trained tokens of a row when the data set is not here yet."""


def plan_run(
    settings: TrainSettings,
    devices: Sequence[Device] | None,
    ladder: Ladder | None = None,
    *,
    served: Mapping[str, str] | None = None,
    here: bool = False,
    wanted: str | None = None,
) -> Assessment:
    """Every rung judged for this run, and the chosen one.

    `devices` are those of one node; None: not known, each rung is judged by the least that it asks for. `ladder`: None
    loads the one that the settings name. `served`: the rungs that a cluster has a place for. `here`: the run would
    start on this machine, so that missing packages count. `wanted`: None takes `hardware.rung` of the settings.
    Raises ProblemsError for a ladder with mistakes or a rung that it does not have.
    """
    shape, notes = _shape(settings.base)
    tokens, rows = _data(settings)
    steps = None if rows is None else _steps(settings, rows)
    if rows is None:
        notes.append(f"the data set {settings.data} is not prepared here: no step count, no expected time")
    rates = known_rates(settings.output)

    def load_on(rung: Rung) -> TrainingLoad:
        return training_load(settings, rung, tokens)

    def seconds_of(rung: Rung, load: TrainingLoad, device: Device | None) -> float | None:
        if steps is None or device is None:
            return None
        workload = Workload(settings.base, load.method, load.bits, load.length)
        rate = find_rate(rates, workload, device.name, rung.world)
        return None if rate is None else steps * settings.batch.effective / rate.rows_per_second

    assessment = assess_ladder(
        ladder if ladder is not None else load_ladder(settings.hardware.ladder),
        load_on,
        settings.batch.effective,
        shape,
        devices,
        wanted=settings.hardware.rung if wanted is None else wanted,
        served=served,
        bitsandbytes=importlib.util.find_spec("bitsandbytes") is not None if here else None,
        seconds_of=seconds_of,
    )
    judged = tuple(replace(row, notes=(*row.notes, *_cuts(settings, row.rung))) for row in assessment.rows)
    chosen = assessment.chosen and judged[assessment.rows.index(assessment.chosen)]
    return replace(assessment, rows=judged, chosen=chosen, notes=tuple(notes), steps=steps, train_rows=rows)


def _cuts(settings: TrainSettings, rung: Rung) -> list[str]:
    """What the rung changes of the rows themselves."""
    own = settings.prompt.max_length
    if rung.max_length is None or rung.max_length >= own:
        return []
    return [f"tickets are cut so that a row has {rung.max_length} tokens instead of {own}"]


def training_load(settings: TrainSettings, rung: Rung, trained_tokens: int = UNKNOWN_RECORD_TOKENS) -> TrainingLoad:
    """What `settings` put on a device of `rung`; for a world that does not divide the batch, one row at a time."""
    effective = settings.batch.effective
    world = rung.world if effective % rung.world == 0 else effective
    applied = apply_rung(settings, rung, world)
    adapter, quantization = applied.adapter, applied.quantization
    precision = applied.precision if applied.precision != "auto" else rung.precision
    return TrainingLoad(
        method=adapter.method,
        rank=adapter.r,
        targets=None if adapter.targets == "all-linear" else tuple(adapter.targets),
        layers=None if adapter.layers is None else len(adapter.layers),
        dora=adapter.dora,
        pissa=adapter.pissa,
        dropout=adapter.dropout,
        head=adapter.head,
        bits=quantization.bits if quantization else None,
        double_quant=quantization.double_quant if quantization else True,
        quantised_compute=quantization.compute_dtype if quantization else "auto",
        precision=precision,
        optimizer=applied.optimizer.name,
        micro=applied.batch.micro,
        eval_rows=applied.batch.eval,
        length=applied.prompt.max_length,
        trained_tokens=trained_tokens,
        gradient_checkpointing=applied.gradient_checkpointing,
    )


def _shape(base: str) -> tuple[ModelShape | None, list[str]]:
    try:
        return model_shape(base), []
    except TriageError as error:
        # A base that cannot be counted can still be trained: the probe finds out what fits.
        return None, [f"memory is not estimated: {error}"]


def _data(settings: TrainSettings) -> tuple[int, int | None]:
    """(trained tokens of the longest record, rows to train on; None without a processed data set)."""
    from triagekit.data.dataset import SCHEMA_FILE, read_manifest
    from triagekit.schema.load import load_schema

    folder = Path(settings.data)
    if not (folder / "manifest.json").is_file():
        return UNKNOWN_RECORD_TOKENS, None
    rows = int(read_manifest(folder)["counts"]["train"])
    rows = rows if settings.max_train_rows is None else min(rows, settings.max_train_rows)
    if not (folder / SCHEMA_FILE).is_file():
        return UNKNOWN_RECORD_TOKENS, rows
    characters = sum(_longest(a_field) for a_field in load_schema(folder / SCHEMA_FILE).fields)
    return math.ceil(characters / CHARACTERS_PER_TOKEN) + 1, rows


def _longest(a_field: Any) -> int:
    """Characters that a schema field takes in a record at most: name, value, quotes, colon and comma."""
    from triagekit.schema.fields import TagsField, TextField

    around = len(a_field.name) + 6
    if isinstance(a_field, TextField):
        return around + a_field.max_length
    longest = sorted((len(value) for value in a_field.values), reverse=True)
    if isinstance(a_field, TagsField):
        return around + sum(length + 3 for length in longest[: a_field.max_items])
    return around + (longest[0] if longest else 0)


def _steps(settings: TrainSettings, rows: int) -> int:
    from triagekit.training.arguments import total_steps

    return total_steps(settings, rows)
