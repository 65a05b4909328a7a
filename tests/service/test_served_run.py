"""What the service says of a prediction: fewer fields where they are asked for, verdicts by calibrated confidence."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scoring"))

from scoring_helpers import TICKETS_SCHEMA, make_adapter, many_tickets

from triagekit.errors import TriageError
from triagekit.scoring.confidence_map import ConfidenceMap, StoredCalibration, write_calibration
from triagekit.scoring.predictor import Predictor
from triagekit.service.model import ServedRun, load_run
from triagekit.service.settings import ServeSettings

LABELS = ("category", "subcategory", "priority")
TEXTS = [*many_tickets(12), "   "]


@pytest.fixture(scope="module")
def run(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a calibration for its labels alone, and none for whole records."""
    folder = tmp_path_factory.mktemp("served") / "lora-seed1"
    folder.mkdir()
    make_adapter(folder / "adapter", tiny_model_folder, TICKETS_SCHEMA)
    (folder / "config.yaml").write_text("seed: 1\n", encoding="utf-8")
    card = json.loads((folder / "adapter" / "triagekit.json").read_text(encoding="utf-8"))
    maps = dict.fromkeys(LABELS, ConfidenceMap(1.5, 0.5))
    stored = StoredCalibration(
        card["fingerprint"], card["schema_fingerprint"], "data", "val", 80, maps, ConfidenceMap(1.0, 2.0), "labels"
    )
    write_calibration(folder, stored)
    return folder


def test_labels_alone_with_calibrated_verdicts(run: Path) -> None:
    served = ServedRun("lora-seed1")
    raw = Predictor.from_run(run, device="cpu", fields=["labels"]).predict(TEXTS)
    chances = [ConfidenceMap(1.0, 2.0)(math.prod(item.confidence[name] for name in LABELS)) for item in raw[:-1]]
    threshold = sorted(chances)[len(chances) // 2]
    settings = ServeSettings(run=str(run), device="cpu", fields=["labels"], auto_at=threshold)
    found = [served.answer(None, item) for item in load_run(settings, served)(TEXTS)]
    assert served.schema is not None and served.schema.field_names == LABELS
    told = served.to_json()
    assert told["decoding"] == {"precision": "auto", "fields": ["labels"], "auto_at": threshold}
    # The schema that it was trained for, whatever is asked of it.
    assert told["fingerprints"]["schema"] == TICKETS_SCHEMA.fingerprint
    assert [item["record"] for item in found] == [item.record for item in raw]
    assert [item["overall"] for item in found[:-1]] == pytest.approx(chances, abs=1e-4)
    for item, plain, chance in zip(found, raw, chances, strict=False):
        assert item["verdict"] == ("auto" if chance >= threshold else "review")
        for name in LABELS:
            expected = ConfidenceMap(1.5, 0.5)(plain.confidence[name])
            assert item["confidence"][name] == pytest.approx(expected, abs=1e-4)
    assert {item["verdict"] for item in found[:-1]} == {"auto", "review"}
    assert (found[-1]["verdict"], found[-1]["overall"]) == ("error", None)


def test_a_calibration_of_other_records_is_not_taken(run: Path) -> None:
    with pytest.raises(TriageError, match=r"has no calibration.*triage evaluate .*lora-seed1 --calibrate$"):
        load_run(ServeSettings(run=str(run), device="cpu", auto_at=0.5), ServedRun("lora-seed1"))
    with pytest.raises(ValidationError, match="give one of them"):
        ServeSettings(run=str(run), auto_at=0.5, auto_threshold=0.5)
