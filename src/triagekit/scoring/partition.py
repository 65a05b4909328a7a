"""The finished rows once more, in one folder for each value of a column, as Hive, Spark, DuckDB and pyarrow read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from triagekit.errors import TriageError, did_you_mean
from triagekit.files.atomic import atomic_folder
from triagekit.schema.fields import TagsField, TextField
from triagekit.schema.schema import Schema
from triagekit.scoring.part_columns import Columns, column_kinds
from triagekit.scoring.part_formats import OutputFormat, read_columns, write_columns
from triagekit.scoring.parts import part_path

NULL = "__HIVE_DEFAULT_PARTITION__"
ROWS_AT_ONCE = 65_536
"""Rows that are in memory together; each group of them gives at most one file a value, so files stay few."""


def check_partition_column(schema: Schema, column: str) -> None:
    """Raises TriageError for a column whose values are not a closed set."""
    choices = [field.name for field in schema.fields if not isinstance(field, TextField | TagsField)] + ["verdict"]
    if column not in choices:
        raise TriageError(f"partition_by: the output cannot be split by '{column}'. {did_you_mean(column, choices)}")


def partition_folder(folder: Path, column: str) -> Path:
    """Where the rows stand split by `column`."""
    return folder / f"by_{column}"


def write_partitions(
    folder: Path, column: str, schema: Schema, calibrated: bool, output_format: OutputFormat, shards: Iterable[int]
) -> dict[str, Any]:
    """Copy the rows of all parts to `by_<column>/<column>=<value>/part-NNNNN`, in the order of the archive.

    A step after the scoring, from parts that are checked already: built beside its place and renamed as a whole, so it
    is there completely or not at all, and doing it again gives the same. The column itself is in the folders' names
    only, percent-encoded. Returns the folder and its rows by value.
    """
    kinds = column_kinds(schema, calibrated)
    kept = {name: kind for name, kind in kinds.items() if name != column}
    counts: Counter[str] = Counter()
    target = partition_folder(folder, column)
    with atomic_folder(target) as temporary:
        group: Columns = {name: [] for name in kinds}
        number = 0

        def flush() -> None:
            nonlocal number
            places: dict[str, list[int]] = {}
            for place, value in enumerate(group[column]):
                places.setdefault(NULL if value is None else quote(value, safe=" "), []).append(place)
            for name, chosen in sorted(places.items()):
                inside = temporary / f"{column}={name}"
                inside.mkdir(exist_ok=True)
                cells = {other: [group[other][place] for place in chosen] for other in kept}
                write_columns(part_path(inside, number, output_format), output_format, kept, cells)
                counts[name] += len(chosen)
            for values in group.values():
                values.clear()
            number += 1

        for shard in shards:
            for name, values in read_columns(part_path(folder, shard, output_format), output_format, kinds).items():
                group[name].extend(values)
            if len(group["id"]) >= ROWS_AT_ONCE:
                flush()
        flush()
    return {"column": column, "folder": target.name, "rows": dict(sorted(counts.items()))}
