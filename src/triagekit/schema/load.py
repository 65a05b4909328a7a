"""Schemas from YAML files, shipped or one's own."""

from __future__ import annotations

from pathlib import Path

from triagekit.files.resources import find_config
from triagekit.files.yaml_file import load_yaml
from triagekit.schema.definition import read_definition
from triagekit.schema.schema import Schema


def load_schema(name_or_path: str | Path) -> Schema:
    """The schema of a shipped name (`it_tickets`) or of a YAML file.

    Raises ProblemsError with every mistake of the file, each with file and line, the nearest valid name, and what to
    do; TriageError if there is no such file.
    """
    document = load_yaml(find_config("schema", str(name_or_path)))
    return Schema(**read_definition(document.data, document.where, str(document.path)))
