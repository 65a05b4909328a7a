"""Which records need nobody: decided by the chance, after calibration, that every label is right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.errors import TriageError
from triagekit.schema.load import load_schema
from triagekit.scoring.adapter_place import adapter_folder
from triagekit.scoring.confidence_map import StoredCalibration, read_calibration
from triagekit.scoring.decoding_mode import NF4, DecodingMode

if TYPE_CHECKING:
    from triagekit.scoring.predictor import Prediction

RECORD_CONFIDENCE = "confidence_record"
RAW_PREFIX = "raw_confidence_"


@dataclass(frozen=True)
class ThresholdPolicy:
    """Chow's rule: a record is `auto` where its calibrated chance of being right is at least `auto_at`, else `review`.

    Source: C. K. Chow, On Optimum Recognition Error and Reject Tradeoff (IEEE Trans. Inf. Theory, 1970). No other rule
    leaves fewer errors at the same coverage, if the chances are right.
    """

    auto_at: float
    calibration: StoredCalibration

    @classmethod
    def of_run(
        cls,
        run: Path | str,
        auto_at: float,
        precision: str = "auto",
        fields: Sequence[str] | None = None,
        merged: bool = True,
    ) -> ThresholdPolicy:
        """With the run's calibration for records decoded so, `merged` as Predictor.from_run takes it. Reads no weights.

        Raises TriageError as adapter_folder and read_calibration do, where there is no label to be judged, and where records of
        such a decoding are never calibrated; ProblemsError for fields that cannot be scored.
        """
        from triagekit.modeling.adapter_folder import SCHEMA, read_card

        adapter = adapter_folder(run)
        card, schema = read_card(adapter), load_schema(adapter / SCHEMA)
        if not merged and card.get("quantization"):
            precision = _precision_beside_base(adapter, card["quantization"])
        mode = DecodingMode.of(schema, precision, fields)
        if not any(field.name in (mode.fields or schema.field_names) for field in schema.label_fields):
            raise TriageError("auto_at judges labels, and the fields asked for are free text alone: leave it out.")
        return cls(auto_at, read_calibration(adapter, card, mode))

    def judge(self, predictions: Sequence[Prediction]) -> tuple[list[Prediction], dict[str, list[float | None]]]:
        """The predictions with calibrated confidences and the verdict that follows, and columns beside them:
        `confidence_record` (calibrated) and `raw_confidence_<label field>` (the decoder's)."""
        names = list(self.calibration.fields)
        judged: list[Prediction] = []
        beside: dict[str, list[float | None]] = {name: [] for name in calibrated_columns(names)}
        for item in predictions:
            known = all(name in item.confidence for name in names)
            chance = self.calibration.record_chance(item.confidence) if known else None
            beside[RECORD_CONFIDENCE].append(chance)
            for name in names:
                beside[RAW_PREFIX + name].append(item.confidence.get(name))
            unsure = item.verdict == "auto" and (chance is None or chance < self.auto_at)
            judged.append(
                replace(
                    item,
                    confidence=self.calibration.field_chances(item.confidence),
                    verdict="review" if unsure else item.verdict,
                    chance=chance,
                )
            )
        return judged, beside


def _precision_beside_base(adapter: Path, quantization: Mapping[str, Any]) -> str:
    """The precision under which `triage evaluate` decodes as an adapter does that stays beside its quantised base."""
    if quantization.get("bits") == 4 and quantization.get("type") == "nf4":
        return NF4
    raise TriageError(
        f"{adapter} was trained beside a base in {quantization.get('bits')} bits ({quantization.get('type')}), and records "
        "of such a base are not calibrated. Fold the adapter into its plain base (merged=true), or leave auto_at out."
    )


def calibrated_columns(label_fields: Sequence[str]) -> list[str]:
    """Columns that a part has only where a calibration was used."""
    return [RECORD_CONFIDENCE, *(RAW_PREFIX + name for name in label_fields)]


def policy_figures(
    policy: ThresholdPolicy, verdicts: Mapping[str, int], chances_of_auto: Sequence[float]
) -> dict[str, Any]:
    """What the threshold gave: share `auto`, and the share of wrong records among them that the chances imply.

    `chances_of_auto`: for each part, the sum of the calibrated chances of its `auto` records.
    """
    rows, auto = sum(verdicts.values()), verdicts.get("auto", 0)
    calibration = policy.calibration
    return {
        "auto_at": policy.auto_at,
        "coverage": auto / rows if rows else 0.0,
        "auto": auto,
        "expected_error": 1.0 - math.fsum(chances_of_auto) / auto if auto else None,
        "calibration": calibration.fingerprint,
        "fitted_on": {"split": calibration.split, "rows": calibration.rows, "data": calibration.data_fingerprint},
        "calibrated_columns": [RECORD_CONFIDENCE, *(f"confidence_{name}" for name in calibration.fields)],
        "raw_columns": [RAW_PREFIX + name for name in calibration.fields],
    }
