"""`manifest.json` of a processed data set: what it was made from, what is in it, what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from triagekit.data.collect import label_key
from triagekit.data.pieces import Reject
from triagekit.data.rows import Row
from triagekit.data.sources import file_name, source_files
from triagekit.files.fingerprint import sha256_file
from triagekit.schema.schema import Schema


def source_records(source: Path, rows_by_file: Mapping[str, int]) -> list[dict[str, Any]]:
    """Name, SHA-256 and number of rows (good and bad) of each file of a source."""
    records = []
    for path in source_files(source):
        name = file_name(path, source)
        records.append({"path": name, "sha256": sha256_file(path), "rows": rows_by_file.get(name, 0)})
    return records


def label_counts(schema: Schema, rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """{field: {value: rows}} of the label fields, most frequent first; each tag of a tags field counts by itself."""
    counts: dict[str, Counter[str]] = {field.name: Counter() for field in schema.label_fields}
    for row in rows:
        for name, counter in counts.items():
            value = row.record[name]
            counter.update([str(item) for item in value] if isinstance(value, list) else [label_key(value)])
    return {name: _ranked(counter) for name, counter in counts.items()}


def slice_counts(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """{slice: {value: rows}}, most frequent first."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for name, value in row.slices.items():
            counts.setdefault(name, Counter())[value] += 1
    return {name: _ranked(counter) for name, counter in counts.items()}


def reason_counts(rejects: Iterable[Reject]) -> dict[str, int]:
    """{reason: rejects}, most frequent first."""
    return _ranked(Counter(reject.reason for reject in rejects))


def _ranked(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
