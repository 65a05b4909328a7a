"""One part a shard: written in one step, and trusted again only if it reads back whole."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.files.atomic import atomic_path, write_json
from triagekit.files.fingerprint import sha256_file
from triagekit.scoring.part_columns import Columns, column_kinds, part_columns
from triagekit.scoring.part_formats import METADATA, OutputFormat, read_parquet, write_columns
from triagekit.scoring.policy import RECORD_CONFIDENCE
from triagekit.scoring.tally import count_columns

if TYPE_CHECKING:
    from triagekit.schema.schema import Schema
    from triagekit.scoring.intake import Shard
    from triagekit.scoring.policy import ThresholdPolicy
    from triagekit.scoring.predictor import Prediction

LEDGER = "_ledger"
"""JSON lines and CSV cannot tell damage by themselves: beside them stands a digest of each part. Programs that read a
whole folder of data leave names with an underscore alone."""


@dataclass(frozen=True)
class PartSummary:
    """What is known of a part beside its rows: inside the file for Parquet, in the ledger for the other formats."""

    shard: int
    fingerprint: str
    rows: int
    verdicts: dict[str, int]
    chance_of_auto: float = 0.0
    """Sum of the calibrated chances of the `auto` records; 0 without a calibration."""
    tally: dict[str, Any] = field(default_factory=dict)
    """As tally.count_columns gives it."""
    work: dict[str, int] = field(default_factory=dict, compare=False)
    """Decoding that it took, as DecodeCounts has it: told by the worker that has just scored it, and not kept."""


class DamagedPart(Exception):
    """A part that cannot be trusted; the text says why."""


def part_path(folder: Path, shard: int, output_format: OutputFormat = "parquet") -> Path:
    """`part-00042.parquet`."""
    return folder / f"part-{shard:05d}.{output_format}"


def part_files(folder: Path, output_format: OutputFormat = "parquet") -> dict[int, Path]:
    """Parts that stand in the folder, by shard."""
    name = re.compile(rf"part-(\d{{5,}})\.{output_format}")
    return {int(match.group(1)): path for path in folder.iterdir() if (match := name.fullmatch(path.name))}


def write_part(
    folder: Path,
    schema: Schema,
    shard: Shard,
    predictions: Sequence[Prediction],
    adapter_fingerprint: str,
    policy: ThresholdPolicy | None = None,
    output_format: OutputFormat = "parquet",
) -> PartSummary:
    """Write the part of one shard: temp → fsync → rename. `policy` puts calibrated confidences and its verdicts in.

    Where the format has no checksums, the part's entry in the ledger is written after it: a kill between the two leaves
    a part without an entry, which is not trusted.
    """
    beside: dict[str, list[float | None]] = {}
    if policy is not None:
        predictions, beside = policy.judge(predictions)
    columns = part_columns(schema, shard, predictions, beside, adapter_fingerprint)
    summary = PartSummary(
        shard.index,
        shard.fingerprint,
        len(shard.rows),
        dict(Counter(columns["verdict"])),
        _chance_of_auto(columns),
        count_columns(schema, columns),
    )
    kinds = column_kinds(schema, policy is not None, shard.carried)
    path = part_path(folder, shard.index, output_format)
    with atomic_path(path) as temporary:
        write_columns(temporary, output_format, kinds, columns, json.dumps(_kept(summary)))
        digest = None if output_format == "parquet" else sha256_file(temporary)
    if digest is not None:
        write_json(ledger_path(path), {**_kept(summary), "sha256": digest})
    return summary


def _kept(summary: PartSummary) -> dict[str, Any]:
    return {name: value for name, value in asdict(summary).items() if name != "work"}


def read_part(path: Path, shard: int, fingerprint: str, rows: int) -> PartSummary:
    """Read a part whole and check it. Raises DamagedPart where it is not this shard's complete part."""
    summary, found = _read_parquet_part(path) if path.suffix == ".parquet" else _read_listed_part(path)
    if summary.shard != shard or summary.fingerprint != fingerprint:
        raise DamagedPart("it was made from other rows")
    if not summary.rows == found == rows:
        raise DamagedPart(f"it holds {found} rows instead of {rows}")
    return summary


def remove_part(path: Path) -> None:
    """Remove a part and its entry in the ledger, the entry first."""
    ledger_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def ledger_path(path: Path) -> Path:
    """Where the digest of a JSON lines or CSV part stands."""
    return path.parent / LEDGER / f"{path.name}.json"


def _read_parquet_part(path: Path) -> tuple[PartSummary, int]:
    import pyarrow

    try:
        with path.open("rb") as handle:
            table = read_parquet(handle)
        return PartSummary(**json.loads((table.schema.metadata or {})[METADATA])), table.num_rows
    except (OSError, pyarrow.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DamagedPart(f"it cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})") from None


def _read_listed_part(path: Path) -> tuple[PartSummary, int]:
    try:
        entry = json.loads(ledger_path(path).read_text(encoding="utf-8"))
        digest = entry.pop("sha256")
        summary = PartSummary(**entry)
    except FileNotFoundError:
        raise DamagedPart(f"it has no entry in {LEDGER}: it was written, but not finished") from None
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DamagedPart(f"its entry in {LEDGER} cannot be read ({type(error).__name__}: {error})") from None
    if sha256_file(path) != digest:
        raise DamagedPart(f"its content is not what {LEDGER} says of it")
    return summary, summary.rows


def _chance_of_auto(columns: Columns) -> float:
    chances = zip(columns["verdict"], columns.get(RECORD_CONFIDENCE, ()), strict=False)
    return math.fsum(chance for verdict, chance in chances if verdict == "auto" and chance is not None)
