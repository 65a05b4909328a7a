"""Content fingerprints: what was made from what, checked before two things are put together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from triagekit.files.remote import AnyPath

LENGTH = 16
"""Hex digits kept of SHA-256: 64 bits, far beyond chance for the number of things one person makes."""


def fingerprint_bytes(content: bytes) -> str:
    """First 16 hex digits of the SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()[:LENGTH]


def fingerprint_text(text: str) -> str:
    """Fingerprint of UTF-8 `text`."""
    return fingerprint_bytes(text.encode("utf-8"))


def fingerprint_json(value: Any) -> str:
    """Fingerprint of a JSON value, whatever the order of its keys."""
    return fingerprint_text(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")))


def sha256_file(path: AnyPath) -> str:
    """Whole SHA-256 of a file's bytes, read in 1 MiB blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint_file(path: Path) -> str:
    """First 16 hex digits of a file's SHA-256."""
    return sha256_file(path)[:LENGTH]


def fingerprint_files(folder: Path, names: Iterable[str]) -> str:
    """Fingerprint of those of `names` that exist in `folder`, names included."""
    present = [(name, sha256_file(folder / name)) for name in sorted(names) if (folder / name).is_file()]
    return fingerprint_json(present)
