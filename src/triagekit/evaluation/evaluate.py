"""A run measured on a split: decoded by the real decoder, written beside the run, not repeated without need."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.data.dataset import ProcessedDataset
from triagekit.data.rows import Row
from triagekit.errors import TriageError
from triagekit.evaluation.calibrate import effect_of_stored
from triagekit.evaluation.intervals import mean_intervals
from triagekit.evaluation.metrics import evaluate_table
from triagekit.evaluation.mode_agreement import mode_agreement
from triagekit.evaluation.table import PredictionTable
from triagekit.files.atomic import write_json
from triagekit.files.fingerprint import fingerprint_file, fingerprint_json
from triagekit.progress import Progress, SilentProgress
from triagekit.schema.parse import parse_record
from triagekit.schema.schema import Schema
from triagekit.schema.subset import select_fields
from triagekit.scoring.decoding_mode import DecodingMode
from triagekit.training.run_folder import RunFolder

if TYPE_CHECKING:
    from triagekit.scoring.predictor import Predictor

PREDICTIONS = "predictions.parquet"
METRICS = "metrics.json"
FREE_SAMPLE = 200
_BLOCK = 256


@dataclass(frozen=True)
class _Stored:
    """Predictions on disk for the tickets asked for, which may be the first of more."""

    table: PredictionTable
    metrics: dict[str, Any]
    """{} where they are those of more tickets, or a kill came between the two files."""
    is_part: bool


def evaluate_run(
    run: Path,
    split: str = "test",
    base: str | None = None,
    limit: int | None = None,
    free_sample: int | None = FREE_SAMPLE,
    fresh: bool = False,
    data: Path | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    precision: str = "auto",
    fields: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Metrics of `run` on `split`; writes `<run>/eval/<split>/predictions.parquet` and then `metrics.json`.

    `precision` and `fields` are those of scoring, other than the usual ones in a folder of their own below
    (`<run>/eval/<split>/int8+labels`); `beside_usual` then tells how these records differ from the usual ones
    (mode_agreement; None where these were not decoded on the same tickets).
    `limit` takes the first so many tickets. On `free_sample` tickets of them the model also writes without the grammar,
    which gives the share of valid records before the constraint (None: an earlier figure stays, none is made). `data`
    replaces the data folder named by the run, for a run that was moved; it must have the fingerprint that the run was
    trained on.
    Predictions of the same adapter on the same tickets are reused unless `fresh`; so is a free sample of that size. Where
    those on disk are of more tickets than `limit`, theirs are taken from them and nothing is written (`written` of what is
    returned), so that a look at a few does not cost the measurement of all.
    Raises TriageError for an unfinished run, an unknown split, an empty split, data that has changed, or fields that cannot be
    scored by themselves.
    """
    folder = RunFolder.open(run)
    if not folder.adapter.is_dir():
        raise TriageError(
            f"{run} has no adapter yet: it is {folder.status}. "
            f"Finish it with: triage train {folder.config} --name {folder.name}"
        )
    card = json.loads((folder.adapter / "triagekit.json").read_text(encoding="utf-8"))
    dataset = open_data(folder, card, data)
    rows = dataset.rows(split)[:limit]
    if not rows:
        raise TriageError(f"The split '{split}' of {dataset.folder} has no rows: there is nothing to measure.")
    mode = DecodingMode.of(dataset.schema, precision, fields)
    schema = dataset.schema if mode.fields is None else select_fields(dataset.schema, mode.fields)
    usual = folder.evaluation(split)
    target = usual / mode.name if mode.name else usual
    usual_key = {
        "adapter": card["fingerprint"],
        "template": card.get("template_fingerprint"),
        "data": dataset.fingerprint,
        "schema": dataset.schema.fingerprint,
        "split": split,
        "rows": len(rows),
        "base": base or card["base"],
    }
    key = {**usual_key, "mode": mode.name, "fields": mode.fields} if mode.name else usual_key
    stored = None if fresh else _stored(target, key)
    earlier = stored.metrics if stored else {}
    predictor: Predictor | None = None
    if stored:
        table, decoding = stored.table, earlier.get("decoding")
    else:
        predictor = _predictor(folder, base, device, mode)
        table, decoding = _decode(predictor, schema, rows, progress or SilentProgress())
        table.write(target / PREDICTIONS, key)
    free = earlier.get("valid_before_constraint")
    # What is written freely is a whole record.
    wanted = min(free_sample or 0, len(rows)) if mode.fields is None else 0
    if wanted == 0:
        free = free if free_sample is None else None
    elif free is None or free.get("rows") != wanted:
        predictor = predictor or _predictor(folder, base, device, mode)
        free = _free_validity(predictor, dataset.schema, rows, wanted, seed, progress or SilentProgress())
    metrics: dict[str, Any] = {
        "kind": "run",
        "run": folder.name,
        "split": split,
        "mode": mode.name,
        **evaluate_table(schema, table, seed),
        "valid_before_constraint": free,
        "calibrated": effect_of_stored(folder.adapter, split, table, mode),
        **({"beside_usual": _beside_usual(schema, table, usual, usual_key, seed)} if mode.name else {}),
        "data_fingerprint": dataset.fingerprint,
        "adapter_fingerprint": card["fingerprint"],
        "rows_in_split": len(dataset.rows(split)),
        "decoding": decoding,
    }
    written = not (stored and stored.is_part)
    if written:
        metrics["predictions_fingerprint"] = fingerprint_file(target / PREDICTIONS)
        write_json(target / METRICS, metrics)
    return {**metrics, "reused": stored is not None, "written": written}


def data_folder(folder: RunFolder, data: Path | None = None) -> Path:
    """Where the data of a run lies: `data` if given, else as the run names it, from here or from any folder above it."""
    named = Path(data) if data else Path(str(folder.settings().get("data", "")))
    places = (
        [named] if data or named.is_absolute() else [named, *(up / named for up in folder.folder.resolve().parents)]
    )
    return next((place for place in places if (place / "manifest.json").is_file()), named)


def open_data(folder: RunFolder, card: dict[str, Any], data: Path | None = None) -> ProcessedDataset:
    """The data set a run was trained on. Raises TriageError when it is missing or is not what the run was trained on."""
    found = data_folder(folder, data)
    dataset = ProcessedDataset.open(found)
    if dataset.fingerprint != card["data_fingerprint"]:
        raise TriageError(
            f"{found} is not the data that {folder.name} was trained on: fingerprint {dataset.fingerprint}, the run has "
            f"{card['data_fingerprint']}. Its test rows may have been in training. Name the right folder with --data."
        )
    return dataset


def read_metrics(folder: Path) -> dict[str, Any]:
    """`metrics.json` of an evaluation folder. Raises TriageError when it is missing, damaged, or not of its predictions."""
    path = folder / METRICS
    try:
        metrics = dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise TriageError(f"No {METRICS} in {folder}.") from None
    except ValueError as error:
        raise TriageError(f"{path} is damaged ({error}). Evaluate again with --fresh.") from None
    expected = metrics.get("predictions_fingerprint")
    if expected and (not (folder / PREDICTIONS).is_file() or fingerprint_file(folder / PREDICTIONS) != expected):
        raise TriageError(f"{path} was not made from the {PREDICTIONS} beside it. Evaluate again.")
    return metrics


def _stored(target: Path, key: dict[str, Any]) -> _Stored | None:
    """Predictions on disk that answer `key`, or the first of those that answer it for more tickets."""
    path = target / PREDICTIONS
    if not path.is_file():
        return None
    try:
        table, found = PredictionTable.read(path)
    except TriageError:
        return None
    rows = key["rows"]
    if len(table) < rows or fingerprint_json({**found, "rows": rows}) != fingerprint_json(key):
        return None
    if len(table) > rows:
        return _Stored(table.take(range(rows)), {}, is_part=True)
    try:
        return _Stored(table, read_metrics(target), is_part=False)
    except TriageError:
        return _Stored(table, {}, is_part=False)


def _beside_usual(
    schema: Schema, table: PredictionTable, usual: Path, key: dict[str, Any], seed: int
) -> dict[str, Any] | None:
    stored = _stored(usual, key)
    return mode_agreement(schema, table, stored.table, seed) if stored else None


def _predictor(folder: RunFolder, base: str | None, device: str | None, mode: DecodingMode) -> Predictor:
    from triagekit.scoring.predictor import Predictor

    return Predictor.from_run(folder.folder, base=base, device=device, precision=mode.precision, fields=mode.fields)


def _decode(
    predictor: Predictor, schema: Schema, rows: Sequence[Row], progress: Progress
) -> tuple[PredictionTable, dict[str, float]]:
    progress.start("decode", len(rows), "tickets")
    predictions: list[Any] = []
    began = time.perf_counter()
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        predictions.extend(predictor.predict([row.text for row in block]))
        progress.advance(len(block))
    seconds = time.perf_counter() - began
    progress.finish()
    figures = {"seconds": seconds, "rows_per_second": len(rows) / seconds}
    return PredictionTable.build(schema, rows, predictions), figures


def _free_validity(
    predictor: Predictor, schema: Schema, rows: Sequence[Row], count: int, seed: int, progress: Progress
) -> dict[str, Any]:
    """Share of `count` tickets (drawn by `seed`) for which unconstrained greedy text parses to a valid record.

    `strict` counts only texts that needed no repair: nothing around the JSON, no code fence.
    """
    import numpy as np

    from triagekit.decoding.free import generate_free

    chosen = [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), count))]
    progress.start("write freely", count, "tickets")
    texts: list[str] = []
    for start in range(0, count, 64):
        block = [row.text for row in chosen[start : start + 64]]
        texts.extend(generate_free(predictor.adapter.model, predictor.adapter.segments, block))
        progress.advance(len(block))
    progress.finish()
    parsed = [parse_record(schema, text) for text in texts]
    valid = np.array([item.verdict == "auto" for item in parsed], dtype=float)
    strict = np.array([item.verdict == "auto" and not item.repairs for item in parsed], dtype=float)
    means = mean_intervals({"valid": valid, "strict": strict}, seed=seed)
    return {**means["valid"], "rows": count, "strict": means["strict"]}
