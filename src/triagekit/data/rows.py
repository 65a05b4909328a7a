"""The row of a processed data set, and the reading of its JSONL files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triagekit.errors import TriageError

SPLITS = ("train", "val", "test")
"""Names of the splits, in the order in which they are written."""


@dataclass(frozen=True)
class Row:
    """One labelled ticket.

    `record` holds exactly the schema's fields (None where a field is optional and absent); `slices` holds columns that
    results are broken down by, such as language or source.
    """

    id: str
    text: str
    record: dict[str, Any]
    slices: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The row as written to `train.jsonl`, `val.jsonl`, `test.jsonl`."""
        return {"id": self.id, "text": self.text, "record": self.record, "slices": self.slices}

    @staticmethod
    def from_json(value: Any) -> Row:
        """A row from its JSON object. Raises ValueError saying what is wrong with it."""
        if not isinstance(value, dict):
            raise ValueError(f"expected an object with id, text, record, slices; found a {type(value).__name__}")
        identity, text, record, slices = (value.get(key) for key in ("id", "text", "record", "slices"))
        if not isinstance(identity, str) or not isinstance(text, str):
            raise ValueError("'id' and 'text' must both be text")
        if not isinstance(record, dict):
            raise ValueError("'record' must be an object with the schema's fields")
        if slices is not None and not isinstance(slices, dict):
            raise ValueError("'slices' must be an object")
        return Row(identity, text, record, {str(name): str(value) for name, value in (slices or {}).items()})


def iter_rows(path: Path) -> Iterator[Row]:
    """Stream the rows of a processed JSONL file. Raises TriageError naming file and line of the first bad one."""
    try:
        handle = path.open(encoding="utf-8")
    except OSError as error:
        raise TriageError(f"Cannot read {path}: {error.strerror}. Run 'triage data prepare' to make it.") from None
    with handle:
        try:
            for number, line in enumerate(handle, start=1):
                try:
                    yield Row.from_json(json.loads(line))
                except ValueError as error:
                    raise TriageError(
                        f"{path}:{number}: {error}. The file was changed or cut after it was written; "
                        "run 'triage data prepare' again."
                    ) from None
        except UnicodeDecodeError as error:
            raise TriageError(f"{path} is not UTF-8 text any more ({error.reason}). Prepare it again.") from None


def read_rows(path: Path) -> list[Row]:
    """All rows of a processed JSONL file. Raises TriageError naming file and line of the first bad one."""
    return list(iter_rows(path))
