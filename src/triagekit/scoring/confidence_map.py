"""From the decoder's confidences to chances of being right: the maps that `triage evaluate --calibrate` has fitted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from triagekit.errors import TriageError
from triagekit.files.atomic import write_json
from triagekit.files.fingerprint import fingerprint_json
from triagekit.scoring.decoding_mode import DecodingMode

CALIBRATION_FILES = "calibration*.json"
EDGE = 1e-6
"""Confidences are kept this far from 0 and 1, where log odds have no value; closer to them, rounding would decide."""


@dataclass(frozen=True)
class ConfidenceMap:
    """chance = σ(slope · log odds of the confidence + intercept); slope 1 and intercept 0 change nothing.

    Platt scaling on log odds (J. Platt, Probabilistic Outputs for Support Vector Machines, 1999); 1 / slope is the
    temperature of Guo et al. 2017. The slope is never negative, so the order of tickets stays.
    """

    slope: float
    intercept: float

    def __call__(self, confidence: float) -> float:
        """The chance of being right, 0 to 1, for a confidence of 0 to 1."""
        return 1.0 / (1.0 + math.exp(-(self.slope * log_odds(confidence) + self.intercept)))


def log_odds(confidence: float) -> float:
    """ln(p / (1 - p)), with p kept off 0 and 1."""
    kept = min(max(confidence, EDGE), 1.0 - EDGE)
    return math.log(kept / (1.0 - kept))


@dataclass(frozen=True)
class StoredCalibration:
    """What was fitted for one adapter. `record` maps the product of the label fields' raw confidences to the chance that
    all of them are right; `fields` each label field's own confidence. `rows` tickets of `split` were used."""

    adapter_fingerprint: str
    schema_fingerprint: str
    data_fingerprint: str
    split: str
    rows: int
    fields: dict[str, ConfidenceMap]
    record: ConfidenceMap
    mode: str = ""
    """DecodingMode.calibration_name of the predictions that it was fitted on."""

    @property
    def fingerprint(self) -> str:
        """Of everything in it: another fit makes another archive job."""
        return fingerprint_json(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """JSON form; without a mode, as it was before there were such."""
        return {name: value for name, value in asdict(self).items() if name != "mode" or value}

    def field_chances(self, confidence: Mapping[str, float]) -> dict[str, float]:
        """Calibrated confidences of the label fields; free text keeps the decoder's."""
        return {name: self.fields[name](raw) if name in self.fields else raw for name, raw in confidence.items()}

    def record_chance(self, confidence: Mapping[str, float]) -> float:
        """The chance that every label of a record is right, from the raw confidences of its fields."""
        return self.record(math.prod(confidence[name] for name in self.fields))


def calibration_file(mode: str) -> str:
    """Name of the file with the calibration of a mode."""
    return f"calibration.{mode}.json" if mode else "calibration.json"


def write_calibration(run: Path, calibration: StoredCalibration) -> Path:
    """Write `<run>/calibration.json`, or that of its mode, in one step."""
    path = run / calibration_file(calibration.mode)
    write_json(path, {**calibration.to_dict(), "fingerprint": calibration.fingerprint})
    return path


def read_calibration(adapter: Path, card: Mapping[str, Any], mode: DecodingMode | None = None) -> StoredCalibration:
    """The calibration of an adapter folder for records decoded by `mode`, in the folder itself or beside it.

    Raises TriageError, with the command that makes one, where there is none, where it is damaged or edited, and where
    it was fitted for another adapter or mode.
    """
    mode = mode or DecodingMode()
    name = calibration_file(mode.calibration_name)
    places = [folder / name for folder in (adapter, adapter.resolve().parent)]
    path = next((place for place in places if place.is_file()), None)
    run = adapter.parent if adapter.name == "adapter" else adapter
    if (run / "config.yaml").is_file():
        advice = f"Make one: triage evaluate {run} --calibrate{mode.arguments}"
    else:
        advice = (
            f"Make one where the run lies that it was trained in (triage evaluate RUN --calibrate{mode.arguments}), and copy "
            f"RUN/{name} into {adapter}"
        )
    if path is None:
        asked = f" for{mode.arguments}" if mode.calibration_name else ""
        raise TriageError(
            f"{run} has no calibration{asked}, so its confidences are not chances of being right. {advice}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        told = content.pop("fingerprint")
        fields = {name: ConfidenceMap(**values) for name, values in content.pop("fields").items()}
        calibration = StoredCalibration(**content | {"fields": fields, "record": ConfidenceMap(**content["record"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TriageError(f"{path} is damaged ({type(error).__name__}: {error}). {advice}") from None
    if calibration.fingerprint != told:
        raise TriageError(f"{path} was changed after it was written. {advice}")
    if calibration.adapter_fingerprint != card["fingerprint"]:
        raise TriageError(
            f"{path} was fitted for adapter {calibration.adapter_fingerprint}, this one is {card['fingerprint']}. {advice}"
        )
    if calibration.mode != mode.calibration_name:
        raise TriageError(
            f"{path} was fitted on records decoded as '{calibration.mode or 'whole records'}', not as "
            f"'{mode.calibration_name or 'whole records'}'. {advice}"
        )
    return calibration
