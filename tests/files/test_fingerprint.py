"""Fingerprints depend on content only."""

from __future__ import annotations

import hashlib

from triagekit.files import fingerprint


def test_key_order_does_not_matter_but_values_do():
    assert fingerprint.fingerprint_json({"a": 1, "b": 2}) == fingerprint.fingerprint_json({"b": 2, "a": 1})
    assert fingerprint.fingerprint_json({"a": 1}) != fingerprint.fingerprint_json({"a": "1"})


def test_file_equals_sha256(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 3_000_000)
    assert fingerprint.sha256_file(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert fingerprint.fingerprint_file(path) == fingerprint.fingerprint_bytes(b"x" * 3_000_000)


def test_a_renamed_or_missing_file_changes_the_fingerprint(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    both = fingerprint.fingerprint_files(tmp_path, ["a", "b"])
    assert both == fingerprint.fingerprint_files(tmp_path, ["b", "a", "c"])
    (tmp_path / "b").rename(tmp_path / "c")
    assert both != fingerprint.fingerprint_files(tmp_path, ["a", "b", "c"])
