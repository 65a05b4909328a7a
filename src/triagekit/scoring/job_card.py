"""What an archive job is made of: written when it begins, compared whenever it is gone on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.data.mapping import DataMapping
from triagekit.data.prepare_settings import PrepareSettings
from triagekit.data.source_settings import SourceSettings
from triagekit.errors import Problem, ProblemsError, TriageError
from triagekit.files.atomic import write_json
from triagekit.files.fingerprint import fingerprint_json
from triagekit.files.resources import find_config
from triagekit.files.yaml_file import load_yaml
from triagekit.settings import parse_settings

if TYPE_CHECKING:
    from triagekit.schema.schema import Schema
    from triagekit.scoring.confidence_map import StoredCalibration
    from triagekit.scoring.input_files import InputFile
    from triagekit.scoring.settings import ScoreSettings

JOB_FILE = "job.json"
PART_VERSION = 2
"""Of the columns of a part: a job goes on only with parts like those it has."""
_BESIDE = ("fingerprint", "schema", "append_folder")
"""Told by the other keys already; the earlier job's folder may be moved."""
_NAMES = {
    "adapter_fingerprint": "adapter",
    "base_fingerprint": "base model",
    "schema_fingerprint": "schema",
    "template_fingerprint": "prompt template",
    "input_files": "input",
    "mapping": "mapping",
    "carry": "carried columns",
    "calibration": "calibration",
    "append_since": "earlier job",
    "part_version": "version of the parts",
}


@dataclass(frozen=True)
class Reading:
    """How the archive is read: which columns hold what, the reading options of its files, and the columns that go with a
    ticket into the output."""

    mapping: DataMapping | None
    options: SourceSettings | None
    carried: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form of mapping and options."""
        parts = {"mapping": self.mapping, "reading": self.options}
        return {name: None if part is None else part.model_dump(mode="json") for name, part in parts.items()}


def resolve_reading(settings: ScoreSettings) -> Reading:
    """The mapping with --text-column and --id-column put over it.

    The YAML may be a mapping by itself, or the whole file that `triage data prepare` reads, so that training and
    scoring take their texts from the same place.
    """
    mapping: DataMapping | None = None
    options: SourceSettings | None = None
    if settings.mapping:
        document = load_yaml(find_config("data", settings.mapping))
        if isinstance(document.data, dict) and "mapping" in document.data:
            prepare = parse_settings(PrepareSettings, document)
            mapping, options = prepare.mapping, prepare.reading
        else:
            mapping = parse_settings(DataMapping, document)
    columns = {"text": settings.text_column, "id": settings.id_column}
    given = {key: value for key, value in columns.items() if value is not None}
    if given:
        mapping = (mapping or DataMapping()).model_copy(update=given)
    return Reading(mapping, options, tuple(settings.carry))


def make_job_card(
    settings: ScoreSettings,
    card: dict[str, Any],
    schema: Schema,
    reading: Reading,
    files: Sequence[InputFile],
    calibration: StoredCalibration | None = None,
    earlier: Sequence[tuple[Path, dict[str, Any]]] = (),
) -> dict[str, Any]:
    """Everything that decides the rows of the output. `files` as input_files.input_files gives them."""
    identity = {
        "adapter_fingerprint": card["fingerprint"],
        "base_fingerprint": card["base_fingerprint"],
        "schema_fingerprint": card["schema_fingerprint"],
        "template_fingerprint": card["template_fingerprint"],
        "input_files": [[item.name, item.sha256] for item in files],
        "mapping": reading.to_dict(),
        "shard_rows": settings.shard_rows,
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        "constrained": settings.constrained,
        "fields": settings.fields,
        "auto_threshold": settings.auto_threshold,
        "auto_at": settings.auto_at,
        "calibration": calibration.fingerprint if calibration else None,
        "output_format": settings.output_format,
        "part_version": PART_VERSION,
        "append_since": earlier[0][1]["job"]["fingerprint"] if earlier else None,
    }
    # Jobs without them keep the fingerprint that they had before there were such.
    if settings.merged is False:
        identity["merged"] = False
    if reading.carried:
        identity["carry"] = list(reading.carried)
    return {
        **identity,
        "append_folder": str(earlier[0][0]) if earlier else None,
        "schema": schema.name,
        "fingerprint": fingerprint_json(identity),
    }


def claim_folder(folder: Path, job: dict[str, Any]) -> bool:
    """Write job.json, or compare with the one that stands there. Returns whether the job was begun before.

    Raises ProblemsError naming all that differs, TriageError for a folder that holds something else.
    """
    path = folder / JOB_FILE
    if not path.exists():
        # `jobs` holds the batch scripts and logs of jobs that score into this folder.
        strangers = sorted(
            item.name for item in folder.iterdir() if not item.name.startswith(".") and item.name != "jobs"
        )
        if strangers:
            raise TriageError(
                f"{folder} holds other things already ({', '.join(strangers[:5])}). Give an empty or a new folder."
            )
        write_json(path, job)
        return False
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TriageError(f"{path} is damaged ({error}). Give another --out.") from None
    problems = [
        Problem(_NAMES.get(key, key), _difference(key, begun.get(key), job.get(key)))
        for key in dict.fromkeys([*job, *begun])
        if key not in _BESIDE and begun.get(key) != job.get(key)
    ]
    if problems:
        raise ProblemsError(
            f"{folder} was begun as another job; its parts would not belong together. Give another --out, or the same "
            "settings. What differs:",
            problems,
        )
    return True


def _difference(key: str, begun: Any, now: Any) -> str:
    if key != "input_files":
        return f"begun with {_short(begun)}, now {_short(now)}."
    before, after = dict(begun or ()), dict(now)
    changes = {
        "new": sorted(after.keys() - before.keys()),
        "gone": sorted(before.keys() - after.keys()),
        "changed": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
    }
    return "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in changes.items() if names) + "."


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:199] + "…"
