"""A processed data set on disk: opened only if its content is what its manifest says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triagekit.data.rows import SPLITS, Row, read_rows
from triagekit.errors import Problem, ProblemsError, TriageError, did_you_mean
from triagekit.files.fingerprint import fingerprint_files, sha256_file
from triagekit.schema.load import load_schema
from triagekit.schema.schema import Schema

MANIFEST = "manifest.json"
SCHEMA_FILE = "schema.yaml"
SPLIT_FILES = tuple(f"{split}.jsonl" for split in SPLITS)


def content_fingerprint(folder: Path) -> str:
    """Fingerprint of the three split files of `folder`: the identity of a data set."""
    return fingerprint_files(folder, SPLIT_FILES)


@dataclass(frozen=True)
class ProcessedDataset:
    """A folder written by `triage data prepare`. Rows are read when asked for and kept."""

    folder: Path
    manifest: dict[str, Any]
    schema: Schema
    _rows: dict[str, list[Row]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name of the data set, as its manifest gives it."""
        return str(self.manifest["name"])

    @property
    def fingerprint(self) -> str:
        """Content fingerprint of the three splits."""
        return str(self.manifest["fingerprint"])

    @staticmethod
    def open(folder: Path | str) -> ProcessedDataset:
        """Open a processed folder. Raises TriageError (ProblemsError) listing every file that differs."""
        root = Path(folder)
        manifest = read_manifest(root)
        problems = changed_files(root, manifest)
        schema_path = root / SCHEMA_FILE
        schema: Schema | None = None
        if schema_path.is_file():
            schema = load_schema(schema_path)
            if schema.fingerprint != manifest["schema_fingerprint"]:
                problems.append(
                    Problem(
                        str(schema_path),
                        f"has fingerprint {schema.fingerprint}; the manifest says {manifest['schema_fingerprint']}.",
                    )
                )
        else:
            problems.append(Problem(str(schema_path), "is missing."))
        if problems or schema is None:
            raise ProblemsError(
                f"{root} is not the data set that its manifest describes (run 'triage data prepare' again):", problems
            )
        return ProcessedDataset(root, manifest, schema)

    def rows(self, split: str) -> list[Row]:
        """Rows of 'train', 'val' or 'test'. Raises TriageError for another name."""
        if split not in SPLITS:
            raise TriageError(f"No split '{split}' in {self.folder}. {did_you_mean(split, SPLITS)}")
        if split not in self._rows:
            self._rows[split] = read_rows(self.folder / f"{split}.jsonl")
        return self._rows[split]


def read_manifest(folder: Path) -> dict[str, Any]:
    """`manifest.json` of a processed folder, with the keys that every reader relies on checked."""
    path = folder / MANIFEST
    if not path.is_file():
        others = [item.parent.name for item in folder.parent.glob(f"*/{MANIFEST}")] if folder.parent.is_dir() else []
        hint = did_you_mean(folder.name, others) if others else ""
        raise TriageError(
            f"{folder} is not a processed data set: it has no {MANIFEST}. {hint} "
            f"Make one with: triage data prepare CONFIG --out {folder}".replace("  ", " ")
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TriageError(f"{path} is not valid JSON ({error}). Run 'triage data prepare' again.") from None
    needed = ("name", "schema", "schema_fingerprint", "fingerprint", "counts", "files")
    missing = [key for key in needed if not isinstance(manifest, dict) or key not in manifest]
    if missing:
        raise TriageError(f"{path} lacks {', '.join(missing)}. Run 'triage data prepare' again.")
    return dict(manifest)


def changed_files(folder: Path, manifest: dict[str, Any]) -> list[Problem]:
    """One problem for each split file that is missing or differs from the manifest."""
    problems: list[Problem] = []
    for name in SPLIT_FILES:
        path = folder / name
        expected = manifest["files"].get(name)
        if not path.is_file():
            problems.append(Problem(str(path), "is missing."))
        elif (found := sha256_file(path)) != expected:
            problems.append(Problem(str(path), f"was changed: SHA-256 {found[:16]}…, manifest {str(expected)[:16]}…."))
    if not problems and (found := content_fingerprint(folder)) != manifest["fingerprint"]:
        problems.append(Problem(str(folder / MANIFEST), f"names fingerprint {manifest['fingerprint']}; found {found}."))
    return problems
