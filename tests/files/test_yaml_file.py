"""YAML is read with the line of every key; duplicates are refused."""

from __future__ import annotations

import pytest

from triagekit.errors import ProblemsError, TriageError
from triagekit.files.yaml_file import load_yaml, parse_yaml


def test_lines_of_nested_keys(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: x\nfields:\n  - name: summary\n    kind: text\n", encoding="utf-8")
    document = load_yaml(path)
    assert document.data["fields"][0]["kind"] == "text"
    assert document.where(("fields", 0, "kind")) == f"{path}:4 fields.0.kind"
    assert document.where(("fields", 0, "missing")) == f"{path}:3 fields.0.missing"


def test_all_duplicate_keys_are_named_at_once():
    with pytest.raises(ProblemsError) as caught:
        parse_yaml("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert len(caught.value.problems) == 2
    assert "first on line 1" in str(caught.value)


@pytest.mark.parametrize("content", [b"a: [1, 2", b"\xff\xfea\x00", b"a: \x00"])
def test_bad_files_give_a_message_not_a_traceback(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(TriageError, match=r"bad\.yaml"):
        load_yaml(path)


def test_missing_file(tmp_path):
    with pytest.raises(TriageError, match="No file at"):
        load_yaml(tmp_path / "none.yaml")
