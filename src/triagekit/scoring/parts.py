"""One Parquet part a shard: written in one step, and trusted again only if it reads back whole."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.errors import Problem, ProblemsError
from triagekit.files.atomic import atomic_path
from triagekit.schema.fields import Field, TagsField
from triagekit.scoring.policy import RECORD_CONFIDENCE, calibrated_columns

if TYPE_CHECKING:
    import pyarrow

    from triagekit.schema.schema import Schema
    from triagekit.scoring.intake import Shard
    from triagekit.scoring.policy import ThresholdPolicy
    from triagekit.scoring.predictor import Prediction

_METADATA = b"triagekit"
_PART = re.compile(r"part-(\d{5,})\.parquet")
_OWN_COLUMNS = ("id", "verdict", "error", "raw", "adapter_fingerprint", "schema_fingerprint")


@dataclass(frozen=True)
class PartSummary:
    """What a part says of itself in its metadata."""

    shard: int
    fingerprint: str
    rows: int
    verdicts: dict[str, int]
    chance_of_auto: float = 0.0
    """Sum of the calibrated chances of the `auto` records; 0 without a calibration."""


class DamagedPart(Exception):
    """A part that cannot be trusted; the text says why."""


def part_path(folder: Path, shard: int) -> Path:
    """`part-00042.parquet`."""
    return folder / f"part-{shard:05d}.parquet"


def part_files(folder: Path) -> dict[int, Path]:
    """Parts that stand in the folder, by shard."""
    return {int(match.group(1)): path for path in folder.iterdir() if (match := _PART.fullmatch(path.name))}


def check_column_names(schema: Schema) -> None:
    """Raises ProblemsError for fields whose names the output's own columns have."""
    names = {*_OWN_COLUMNS, *_confidence_columns(schema), *_calibrated_columns(schema)}
    problems = [
        Problem(f"field '{field.name}'", "the output has a column of its own with this name.", "Rename the field.")
        for field in schema.fields
        if field.name in names
    ]
    if RECORD_CONFIDENCE in _confidence_columns(schema):
        problems.append(Problem("field 'record'", f"{RECORD_CONFIDENCE} is of the whole record.", "Rename the field."))
    if problems:
        raise ProblemsError(f"Records of schema '{schema.name}' cannot be written as a table:", problems)


def write_part(
    folder: Path,
    schema: Schema,
    shard: Shard,
    predictions: Sequence[Prediction],
    adapter_fingerprint: str,
    policy: ThresholdPolicy | None = None,
) -> PartSummary:
    """Write the part of one shard: temp → fsync → rename. `policy` puts calibrated confidences and its verdicts in."""
    import pyarrow
    import pyarrow.parquet

    beside: dict[str, list[float | None]] = {}
    if policy is not None:
        predictions, beside = policy.judge(predictions)
    summary = PartSummary(
        shard.index,
        shard.fingerprint,
        len(shard.rows),
        dict(Counter(item.verdict for item in predictions)),
        _chance_of_auto(predictions, beside),
    )
    columns: dict[str, list[Any]] = {"id": [identity for identity, _ in shard.rows]}
    for field in schema.fields:
        columns[field.name] = [_cell(field, item.record) for item in predictions]
    for field in schema.fields:
        columns[f"confidence_{field.name}"] = [item.confidence.get(field.name) for item in predictions]
    columns |= beside
    columns["verdict"] = [item.verdict for item in predictions]
    columns["error"] = [item.error for item in predictions]
    columns["raw"] = [item.text if item.problems and item.text else None for item in predictions]
    columns["adapter_fingerprint"] = [adapter_fingerprint] * len(shard.rows)
    columns["schema_fingerprint"] = [schema.fingerprint] * len(shard.rows)
    layout = arrow_schema(schema, policy is not None).with_metadata({_METADATA: json.dumps(asdict(summary)).encode()})
    table = pyarrow.Table.from_pydict(columns, schema=layout)
    with atomic_path(part_path(folder, shard.index)) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    return summary


def _chance_of_auto(predictions: Sequence[Prediction], beside: Mapping[str, Sequence[float | None]]) -> float:
    chances = beside.get(RECORD_CONFIDENCE, ())
    pairs = zip(predictions, chances, strict=False)
    return math.fsum(chance for item, chance in pairs if item.verdict == "auto" and chance is not None)


def _confidence_columns(schema: Schema) -> list[str]:
    return [f"confidence_{field.name}" for field in schema.fields]


def _calibrated_columns(schema: Schema) -> list[str]:
    return calibrated_columns([field.name for field in schema.label_fields])


def _cell(field: Field, record: Mapping[str, Any] | None) -> Any:
    """A field as its column holds it. What an unconstrained model wrote may be of another type: text then, or null."""
    value = None if record is None else record.get(field.name)
    if isinstance(field, TagsField):
        return [str(item) for item in value] if isinstance(value, list) else None
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_part(path: Path, shard: int, fingerprint: str, rows: int) -> PartSummary:
    """Read a part whole, page checksums included. Raises DamagedPart where it is not this shard's complete part."""
    import pyarrow
    import pyarrow.parquet

    try:
        # The file is opened here, as pyarrow would keep the mapping of a damaged one alive in its error.
        with path.open("rb") as handle:
            table = pyarrow.parquet.read_table(handle, page_checksum_verification=True)
        summary = PartSummary(**json.loads((table.schema.metadata or {})[_METADATA]))
    except (OSError, pyarrow.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DamagedPart(f"it cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})") from None
    if summary.shard != shard or summary.fingerprint != fingerprint:
        raise DamagedPart("it was made from other rows")
    if not summary.rows == table.num_rows == rows:
        raise DamagedPart(f"it holds {table.num_rows} rows instead of {rows}")
    return summary


def arrow_schema(schema: Schema, calibrated: bool = False) -> pyarrow.Schema:
    """Columns of a part."""
    import pyarrow

    def kind(field: Any) -> pyarrow.DataType:
        return pyarrow.list_(pyarrow.string()) if isinstance(field, TagsField) else pyarrow.string()

    return pyarrow.schema(
        [
            ("id", pyarrow.string()),
            *((field.name, kind(field)) for field in schema.fields),
            *((name, pyarrow.float64()) for name in _confidence_columns(schema)),
            *((name, pyarrow.float64()) for name in (_calibrated_columns(schema) if calibrated else ())),
            *((name, pyarrow.string()) for name in _OWN_COLUMNS[1:]),
        ]
    )
