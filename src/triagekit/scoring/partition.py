"""The finished rows once more, in one folder for each value of a column, as Hive, Spark, DuckDB and pyarrow read them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
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
CHARACTERS_AT_ONCE = 1 << 26
"""Of the carried columns, which may hold whole documents."""
MOST_VALUES = 10_000
"""Each is a folder: beyond that a column was taken by mistake, such as a time or an id."""
LONGEST_COLUMN, LONGEST_NAME = 100, 255
"""Bytes of the column in a folder's name, and of the whole name as file systems take it."""


def check_partition_column(schema: Schema, column: str, carried: Sequence[str] = ()) -> None:
    """Raises TriageError for a column that is neither carried along nor one whose values are a closed set."""
    choices = [field.name for field in schema.fields if not isinstance(field, TextField | TagsField)]
    choices += ["verdict", *carried]
    if column not in choices:
        raise TriageError(
            f"partition_by: the output cannot be split by '{column}'. {did_you_mean(column, choices)} A column of the "
            f"archive must be carried into the output first: carry=[{column}]."
        )


def partition_folder(folder: Path, column: str) -> Path:
    """Where the rows stand split by `column`."""
    return folder / f"by_{_encoded(column, LONGEST_COLUMN)}"


class ValueFolders:
    """The folder's name for each value of a column, percent-encoded; one that would be too long ends in a digest."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._start = f"{_encoded(column, LONGEST_COLUMN)}="
        self._known: dict[str, None] = {}

    def of(self, value: str | None) -> str:
        """The name for `value`, None for rows without one. Raises TriageError where there are too many."""
        encoded = NULL if value is None else _encoded(value, LONGEST_NAME - len(self._start))
        if value == NULL:
            # A ticket may say the very word that stands for none.
            encoded = encoded.replace("_", "%5F", 1)
        self._known[encoded] = None
        if len(self._known) > MOST_VALUES:
            shown = ", ".join(f"'{known[:40]}'" for known in list(self._known)[:3])
            raise TriageError(
                f"partition_by: '{self._column}' has more than {MOST_VALUES:,} values ({shown}, …), and each would be a "
                "folder. Split by a column of fewer values, such as a year, or leave partition_by out."
            )
        return self._start + encoded


def write_partitions(
    folder: Path,
    column: str,
    schema: Schema,
    calibrated: bool,
    output_format: OutputFormat,
    shards: Iterable[int],
    carried: Sequence[str] = (),
) -> dict[str, Any]:
    """Copy the rows of all parts to `by_<column>/<column>=<value>/part-NNNNN`, in the order of the archive.

    A step after the scoring, from parts that are checked already: built beside its place and renamed as a whole, so it
    is there completely or not at all, and doing it again gives the same. The column itself is in the folders' names
    only. Returns the folder and its rows by value. Raises TriageError for a column of too many values.
    """
    kinds = column_kinds(schema, calibrated, carried)
    kept = {name: kind for name, kind in kinds.items() if name != column}
    folders = ValueFolders(column)
    counts: Counter[str] = Counter()
    target = partition_folder(folder, column)
    with atomic_folder(target) as temporary:
        group: Columns = {name: [] for name in kinds}
        number = characters = 0

        def flush() -> None:
            nonlocal number, characters
            places: dict[str, list[int]] = {}
            for place, value in enumerate(group[column]):
                places.setdefault(folders.of(value), []).append(place)
            for name, chosen in sorted(places.items()):
                inside = temporary / name
                _make_folder(inside, is_new=name not in counts)
                cells = {other: [group[other][place] for place in chosen] for other in kept}
                write_columns(part_path(inside, number, output_format), output_format, kept, cells)
                counts[name] += len(chosen)
            for values in group.values():
                values.clear()
            number += 1
            characters = 0

        for shard in shards:
            for name, values in read_columns(part_path(folder, shard, output_format), output_format, kinds).items():
                group[name].extend(values)
                characters += sum(len(cell or "") for cell in values) if name in carried else 0
            if len(group["id"]) >= ROWS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
                flush()
        flush()
    rows = {name.partition("=")[2]: count for name, count in sorted(counts.items())}
    return {"column": column, "folder": target.name, "rows": rows}


def _make_folder(path: Path, is_new: bool) -> None:
    try:
        path.mkdir(exist_ok=not is_new)
    except FileExistsError:
        # Files of one value would replace those of the other.
        raise TriageError(
            f"partition_by: the file system does not tell {path.name} from a folder that differs in case only. Write to a "
            "disk that does, or leave partition_by out."
        ) from None


def _encoded(text: str, limit: int) -> str:
    """`text` as a part of a file's name: percent-encoded but for spaces inside, of at most `limit` bytes."""
    inner = quote(text, safe=" ")
    name = inner if inner == inner.strip() else quote(text, safe="")
    if len(name) <= limit:
        return name
    kept, room = "", limit - 17
    for character in text:
        encoded = quote(character, safe="")
        if len(kept) + len(encoded) > room:
            break
        kept += encoded
    return f"{kept}~{hashlib.sha256(text.encode()).hexdigest()[:16]}"
