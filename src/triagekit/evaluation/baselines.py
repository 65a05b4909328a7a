"""Two baselines through the same metrics: the most frequent label, and TF-IDF with a linear model."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.data.dataset import ProcessedDataset
from triagekit.data.rows import Row
from triagekit.errors import TriageError
from triagekit.evaluation.evaluate import METRICS, PREDICTIONS
from triagekit.evaluation.metrics import evaluate_table
from triagekit.evaluation.table import PredictionTable
from triagekit.files.atomic import write_json
from triagekit.files.fingerprint import fingerprint_file
from triagekit.progress import Progress, SilentProgress
from triagekit.schema.canonical import normalise_text
from triagekit.schema.fields import TagsField, TextField
from triagekit.schema.schema import Schema
from triagekit.schema.validate import validate_record, verdict

if TYPE_CHECKING:
    import numpy as np

BASELINES = ("majority", "tfidf_linear")

# (schema, training rows, validation rows, texts, seed) → per field: values and confidences, one per text.
_Columns = dict[str, tuple[Sequence[Any], "Sequence[float] | np.ndarray"]]


def evaluate_baselines(
    data: Path,
    split: str = "test",
    out: Path | None = None,
    limit: int | None = None,
    max_train_rows: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Metrics of each baseline, trained on the train split, on the first `limit` tickets of `split`.

    Writes `<out>/<name>/{predictions.parquet, metrics.json}`; `out` None: `<data>/baselines`. For a split other than
    test the folder is `<name>-<split>`. `max_train_rows` draws that many training rows by `seed`, as training does.
    Text fields are answered by the ticket's first line (the lead baseline of summarisation). Fields that depend on
    another one are predicted by themselves: an impossible pair counts against `valid`.
    Raises TriageError for an empty split.
    """
    bar = progress or SilentProgress()
    dataset = ProcessedDataset.open(data)
    train, rows = dataset.rows("train"), dataset.rows(split)[:limit]
    if not rows or not train:
        empty = split if not rows else "train"
        raise TriageError(f"The split '{empty}' of {dataset.folder} has no rows: no baseline can be made.")
    if max_train_rows is not None and max_train_rows < len(train):
        train = [train[index] for index in sorted(random.Random(seed).sample(range(len(train)), max_train_rows))]
    bar.start("baselines", len(BASELINES) * len(dataset.schema.fields), "fields")
    results = {}
    for name, method in zip(BASELINES, (_majority, _tfidf_linear), strict=True):
        began = time.perf_counter()
        columns = method(dataset, train, [row.text for row in rows], seed, bar.advance)
        table = PredictionTable.build(dataset.schema, rows, _predictions(dataset.schema, columns, len(rows)))
        seconds = time.perf_counter() - began
        folder = (out or dataset.folder / "baselines") / (name if split == "test" else f"{name}-{split}")
        table.write(folder / PREDICTIONS, {"baseline": name, "data": dataset.fingerprint, "split": split})
        results[name] = {
            "kind": "baseline",
            "baseline": name,
            "split": split,
            **evaluate_table(dataset.schema, table, seed),
            "data_fingerprint": dataset.fingerprint,
            "train_rows": len(train),
            "rows_in_split": len(dataset.rows(split)),
            "predictions_fingerprint": fingerprint_file(folder / PREDICTIONS),
            "seconds": seconds,
        }
        write_json(folder / METRICS, results[name])
    bar.finish()
    return results


def _majority(
    dataset: ProcessedDataset, train: Sequence[Row], texts: Sequence[str], seed: int, advance: Callable[[], None]
) -> _Columns:
    columns: _Columns = {}
    for field in dataset.schema.fields:
        if isinstance(field, TextField):
            columns[field.name] = _lead(field, texts)
        else:
            seen = Counter(_hashable(row.record[field.name]) for row in train)
            value, count = min(seen.items(), key=lambda item: (-item[1], str(item[0])))
            shown = list(value) if isinstance(value, tuple) else value
            columns[field.name] = [shown] * len(texts), [count / len(train)] * len(texts)
        advance()
    return columns


def _tfidf_linear(
    dataset: ProcessedDataset, train: Sequence[Row], texts: Sequence[str], seed: int, advance: Callable[[], None]
) -> _Columns:
    from triagekit.evaluation.linear_model import LinearClassifier, LinearTagger, features, shorten

    space = features()
    known = space.fit_transform(shorten([row.text for row in train]))
    asked = space.transform(shorten(texts))
    held_out = dataset.rows("val")
    held_out_matrix = space.transform(shorten([row.text for row in held_out])) if held_out else None
    columns: _Columns = {}
    for field in dataset.schema.fields:
        if isinstance(field, TextField):
            columns[field.name] = _lead(field, texts)
        elif isinstance(field, TagsField):
            tagger = LinearTagger(field.values, field.max_items, seed)
            columns[field.name] = tagger.fit(known, [row.record[field.name] or () for row in train]).predict(asked)
        else:
            # Null is a class like any other; no declared value can be the empty text.
            model = LinearClassifier(seed).fit(known, [row.record[field.name] or "" for row in train])
            if held_out_matrix is not None:
                model.calibrate(held_out_matrix, [row.record[field.name] or "" for row in held_out])
            labels, chances = model.predict(asked)
            columns[field.name] = [name or None for name in labels], chances
        advance()
    return columns


def _lead(field: TextField, texts: Sequence[str]) -> tuple[list[str], list[float]]:
    lines = [next((line for line in text.splitlines() if line.strip()), "") for text in texts]
    return [normalise_text(line, field.max_length) for line in lines], [float("nan")] * len(texts)


def _predictions(schema: Schema, columns: _Columns, count: int) -> list[dict[str, Any]]:
    predictions = []
    for index in range(count):
        record = {name: values[index] for name, (values, _) in columns.items()}
        confidence = {name: float(chances[index]) for name, (_, chances) in columns.items()}
        predictions.append(
            {
                "record": record,
                "confidence": confidence,
                "verdict": verdict(validate_record(schema, record)),
                "text": "",
            }
        )
    return predictions


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
