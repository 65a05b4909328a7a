"""Gold and predicted records side by side, one entry per ticket, and their Parquet file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triagekit.data.rows import Row
from triagekit.errors import TriageError
from triagekit.files.atomic import atomic_path
from triagekit.schema.schema import Schema

NULL_LABEL = "(null)"
"""Stands for an optional field without a value: a label like any other."""
NO_RECORD = "(no record)"
"""Stands for every field of a ticket for which no record came out: never right."""
_METADATA = b"triagekit"


@dataclass(frozen=True)
class PredictionTable:
    """n tickets with gold and predicted field values (None: null), confidences (NaN: none), verdicts, texts, slices."""

    ids: list[str]
    gold: dict[str, list[Any]]
    predicted: dict[str, list[Any]]
    confidence: dict[str, np.ndarray]
    verdicts: list[str]
    texts: list[str]
    outputs: list[str]
    slices: dict[str, list[str | None]]

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def build(schema: Schema, rows: Sequence[Row], predictions: Sequence[Any]) -> PredictionTable:
        """From labelled rows and as many predictions (objects or dicts with record, confidence, verdict, text)."""
        if len(rows) != len(predictions):
            raise ValueError(f"{len(rows)} labelled tickets but {len(predictions)} predictions")
        records = [_get(item, "record") or {} for item in predictions]
        verdicts = [
            "error" if _get(item, "record") is None else str(_get(item, "verdict") or "auto") for item in predictions
        ]
        names = schema.field_names
        columns = sorted({column for row in rows for column in row.slices})
        return PredictionTable(
            ids=[row.id for row in rows],
            gold={name: [row.record.get(name) for row in rows] for name in names},
            predicted={name: [record.get(name) for record in records] for name in names},
            confidence={
                name: np.array(
                    [(_get(item, "confidence") or {}).get(name, np.nan) for item in predictions], dtype=float
                )
                for name in names
            },
            verdicts=verdicts,
            texts=[row.text for row in rows],
            outputs=[str(_get(item, "text") or "") for item in predictions],
            slices={column: [row.slices.get(column) for row in rows] for column in columns},
        )

    def take(self, indices: Iterable[int]) -> PredictionTable:
        """The tickets at `indices`, in that order."""
        chosen = list(indices)

        def pick(values: Sequence[Any]) -> list[Any]:
            return [values[index] for index in chosen]

        return PredictionTable(
            ids=pick(self.ids),
            gold={name: pick(values) for name, values in self.gold.items()},
            predicted={name: pick(values) for name, values in self.predicted.items()},
            confidence={name: values[chosen] for name, values in self.confidence.items()},
            verdicts=pick(self.verdicts),
            texts=pick(self.texts),
            outputs=pick(self.outputs),
            slices={name: pick(values) for name, values in self.slices.items()},
        )

    def has_record(self) -> np.ndarray:
        """Shape (n,): whether a record came out at all."""
        return np.array([verdict != "error" for verdict in self.verdicts], dtype=bool)

    def correct(self, field: str) -> np.ndarray:
        """Shape (n,): whether the predicted value of `field` equals the gold one (tags: as sets)."""
        pairs = zip(self.gold[field], self.predicted[field], self.has_record(), strict=True)
        return np.array([bool(there) and same_value(gold, predicted) for gold, predicted, there in pairs], dtype=bool)

    def all_correct(self, fields: Sequence[str]) -> np.ndarray:
        """Shape (n,): whether every one of `fields` is right; with no fields, whether there is a record."""
        right = self.has_record()
        for field in fields:
            right = right & self.correct(field)
        return right

    def record_confidence(self, fields: Sequence[str]) -> np.ndarray:
        """Shape (n,): product of the fields' confidences, i.e. the chance that all are right if they err independently.

        NaN where a field has none; 0 where no record came out.
        """
        product = np.ones(len(self))
        for field in fields:
            product = product * self.confidence[field]
        return np.where(self.has_record(), product, 0.0)

    def write(self, path: Path, key: Mapping[str, Any]) -> None:
        """Write Parquet atomically: id, gold_*, pred_*, confidence_*, verdict, text, output, slice_*; `key` beside it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, pa.Array] = {"id": pa.array(self.ids, pa.string())}
        for name in self.gold:
            tags = any(isinstance(value, list | tuple) for value in [*self.gold[name], *self.predicted[name]])
            kind = pa.list_(pa.string()) if tags else pa.string()
            columns[f"gold_{name}"] = pa.array(self.gold[name], kind)
            columns[f"pred_{name}"] = pa.array(self.predicted[name], kind)
            columns[f"confidence_{name}"] = pa.array(self.confidence[name], pa.float64(), from_pandas=True)
        columns["verdict"] = pa.array(self.verdicts, pa.string())
        columns["text"] = pa.array([_writable(text) for text in self.texts], pa.string())
        columns["output"] = pa.array([_writable(text) for text in self.outputs], pa.string())
        for name, values in self.slices.items():
            columns[f"slice_{name}"] = pa.array(values, pa.string())
        table = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(dict(key)).encode()})
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @staticmethod
    def read(path: Path) -> tuple[PredictionTable, dict[str, Any]]:
        """A written table and its key. Raises TriageError when the file is missing or damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise TriageError(f"Cannot read the predictions in {path}: {error}. Run 'triage evaluate' again.") from None
        names = [name.removeprefix("gold_") for name in table.column_names if name.startswith("gold_")]

        def column(name: str) -> list[Any]:
            return list(table.column(name).to_pylist()) if name in table.column_names else [""] * table.num_rows

        return PredictionTable(
            ids=column("id"),
            gold={name: column(f"gold_{name}") for name in names},
            predicted={name: column(f"pred_{name}") for name in names},
            confidence={name: np.array(column(f"confidence_{name}"), dtype=float) for name in names},
            verdicts=column("verdict"),
            texts=column("text"),
            outputs=column("output"),
            slices={
                name.removeprefix("slice_"): column(name) for name in table.column_names if name.startswith("slice_")
            },
        ), json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))


def label(value: Any, there: bool = True) -> str:
    """Name under which a value is counted: itself, '(null)', or '(no record)'."""
    if not there:
        return NO_RECORD
    return NULL_LABEL if value is None else str(value)


def same_value(gold: Any, predicted: Any) -> bool:
    """Whether two values of a field are one; tags as sets."""
    if isinstance(gold, list | tuple) and isinstance(predicted, list | tuple):
        return set(gold) == set(predicted)
    return bool(gold == predicted)


def _get(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)


def _writable(text: str) -> str:
    # A lone surrogate cannot be stored as UTF-8; it is shown as the replacement character instead of failing the run.
    return text.encode("utf-8", "replace").decode("utf-8")
