"""From an export to a processed data set: read, check, settle duplicates, split, check for leaks, write."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triagekit import __version__
from triagekit.data.arrange import arrange
from triagekit.data.collect import LabelledTicket, collect
from triagekit.data.dataset import MANIFEST, SCHEMA_FILE, SPLIT_FILES, content_fingerprint
from triagekit.data.equal_texts import settle_equal_texts
from triagekit.data.manifest import label_counts, reason_counts, slice_counts, source_records
from triagekit.data.pieces import Reject
from triagekit.data.prepare_settings import PrepareSettings
from triagekit.data.rows import SPLITS
from triagekit.errors import Problem, ProblemsError, TriageError, did_you_mean
from triagekit.files.atomic import atomic_folder, write_json, write_jsonl
from triagekit.files.fingerprint import sha256_file
from triagekit.files.resources import find_config
from triagekit.progress import Progress
from triagekit.schema.load import load_schema
from triagekit.schema.schema import Schema

REJECTS = "rejects.jsonl"
CONFLICTS = "conflicts.jsonl"


@dataclass(frozen=True)
class PrepareReport:
    """What was written where; `manifest` holds every count."""

    folder: Path
    manifest: dict[str, Any]


def prepare(settings: PrepareSettings, out: Path, progress: Progress | None = None) -> PrepareReport:
    """Make the processed data set `out` (replaced as a whole, or not at all).

    The same source and settings give the same bytes in every file but the manifest's `created`. Raises TriageError
    where the source has no usable row, ProblemsError where mapping or schema do not fit.
    """
    if settings.source is None:
        raise TriageError("No source is given. Name the file or folder: --source FILE, or 'source:' in the settings.")
    source = Path(settings.source).expanduser()
    schema_path = find_config("schema", settings.schema_name)
    schema = load_schema(schema_path)
    label_fields = [field.name for field in schema.label_fields]
    _check_stratify(settings, label_fields)
    if out.exists() and not (out / MANIFEST).is_file() and any(out.iterdir()):
        raise TriageError(
            f"{out} holds files that are no processed data set; it is not replaced. Choose another --out."
        )

    collected = collect(settings, schema, source, progress)
    equal = settle_equal_texts(collected.tickets, settings.duplicates, label_fields)
    if not equal.kept:
        raise _no_rows(source, [*collected.rejects, *equal.rejects])
    arranged = arrange(
        equal.kept, settings.split, collected.method, settings.duplicates.threshold, label_fields, progress
    )
    rejects = sorted(
        [*collected.rejects, *equal.rejects, *arranged.rejects], key=lambda reject: (reject.file, reject.line)
    )
    kept = sum(len(rows) for rows in arranged.splits.values())
    if kept + len(rejects) != collected.read:
        raise AssertionError(f"{collected.read} rows were read, but {kept} kept and {len(rejects)} rejected")

    manifest: dict[str, Any] = {
        "name": settings.name,
        "schema": schema.name,
        "schema_fingerprint": schema.fingerprint,
        "sources": source_records(source, collected.rows_by_file),
        "counts": {
            "read": collected.read,
            **{split: len(arranged.splits[split]) for split in SPLITS},
            "rejects": len(rejects),
        },
        "rejects": reason_counts(rejects),
        "repairs": dict(sorted(collected.repairs.items())),
        "duplicates": {"repeated_rows": equal.duplicate_rows, **arranged.duplicates},
        "conflicts": {"texts": len(equal.conflicts), "rows": equal.conflicting_rows},
        "unused_columns": collected.unused_columns,
        "split": {**settings.split.model_dump(mode="json"), "method": collected.method},
        "leak_check": arranged.leaks.to_json({}),
        "settings": settings.model_dump(mode="json", by_alias=True),
    }
    return PrepareReport(out, _write(out, manifest, arranged.splits, rejects, equal.conflicts, schema, schema_path))


def _write(
    out: Path,
    manifest: dict[str, Any],
    splits: dict[str, list[LabelledTicket]],
    rejects: Sequence[Reject],
    conflicts: Sequence[dict[str, Any]],
    schema: Schema,
    schema_path: Path,
) -> dict[str, Any]:
    with atomic_folder(out) as folder:
        labels: dict[str, Any] = {}
        slices: dict[str, Any] = {}
        for split, name in zip(SPLITS, SPLIT_FILES, strict=True):
            rows = [ticket.row for ticket in splits[split]]
            write_jsonl(folder / name, (row.to_json() for row in rows))
            labels[split], slices[split] = label_counts(schema, rows), slice_counts(rows)
        write_jsonl(folder / REJECTS, (reject.to_json() for reject in rejects))
        write_jsonl(folder / CONFLICTS, conflicts)
        shutil.copyfile(schema_path, folder / SCHEMA_FILE)
        complete = {
            **manifest,
            "labels": labels,
            "slices": slices,
            "fingerprint": content_fingerprint(folder),
            "files": {name: sha256_file(folder / name) for name in (*SPLIT_FILES, REJECTS, CONFLICTS, SCHEMA_FILE)},
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "triagekit": __version__,
        }
        write_json(folder / MANIFEST, complete)
    return complete


def _check_stratify(settings: PrepareSettings, label_fields: Sequence[str]) -> None:
    problems = [
        Problem(f"split.stratify '{name}'", "the schema has no such label field.", did_you_mean(name, label_fields))
        for name in settings.split.stratify or ()
        if name not in label_fields
    ]
    if problems:
        raise ProblemsError("The split does not fit the schema:", problems)


def _no_rows(source: Path, rejects: Sequence[Reject]) -> TriageError:
    counts = ", ".join(f"{reason}: {count}" for reason, count in reason_counts(rejects).items()) or "it is empty"
    first = f" First: {rejects[0].file}:{rejects[0].line} {rejects[0].reason} {rejects[0].detail}." if rejects else ""
    return TriageError(f"{source} has no usable row ({counts}).{first}")
