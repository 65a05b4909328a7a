"""A small schema and source for the whole way through prepare."""

import json

import pytest
from desk import SCHEMA


@pytest.fixture
def schema_path(tmp_path):
    path = tmp_path / "desk.yaml"
    path.write_text(SCHEMA, encoding="utf-8")
    return path


@pytest.fixture
def write(tmp_path):
    """Writes rows (objects, or raw lines) to a JSONL file and gives its path."""

    def to(name, rows):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return to
