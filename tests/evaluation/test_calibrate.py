"""Confidences fitted on val, judged on test, stored beside the adapter; none of another adapter is ever used."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from evaluation_helpers import SCHEMA, write_data, write_run

from triagekit.cli.main import main
from triagekit.errors import TriageError
from triagekit.evaluation.calibrate import fit_confidence_map
from triagekit.evaluation.calibration import calibration
from triagekit.scoring.confidence_map import ConfidenceMap, read_calibration


def drawn(count, seed, slope, intercept):
    """Confidences of a model that is as often right as `slope` and `intercept` say."""
    source = np.random.default_rng(seed)
    confidence = source.beta(4, 1, count)
    truth = np.array([ConfidenceMap(slope, intercept)(value) for value in confidence])
    return confidence, source.random(count) < truth


def test_an_overconfident_model_is_mended_on_tickets_that_were_not_fitted():
    fitted = fit_confidence_map(*drawn(2000, 1, 0.5, -0.4))
    assert fitted.slope == pytest.approx(0.5, abs=0.1)
    assert fitted(0.8) == pytest.approx(ConfidenceMap(0.5, -0.4)(0.8), abs=0.04)
    confidence, right = drawn(4000, 2, 0.5, -0.4)
    after = np.array([fitted(value) for value in confidence])
    assert calibration(confidence, right)["ece"] > 0.15
    assert calibration(after, right)["ece"] < 0.05
    assert (np.argsort(after, kind="stable") == np.argsort(confidence, kind="stable")).all()


def test_corners_of_the_fit():
    # Confidences that are worth nothing, or worse: the share right, and never another order.
    same = fit_confidence_map(np.full(100, 0.9), np.arange(100) < 30)
    assert same(0.9) == pytest.approx(0.3, abs=0.02)
    confidence, right = drawn(300, 3, 1.0, 0.0)
    assert fit_confidence_map(confidence, ~right).slope == 0.0
    # No mistake among 60 tickets is no promise that there will be none.
    assert 0.9 < fit_confidence_map(np.ones(60), np.ones(60, dtype=bool))(1.0) < 0.995
    with_gaps = np.where(np.arange(300) % 3 == 0, np.nan, confidence)
    assert math.isfinite(fit_confidence_map(with_gaps, right).slope)
    with pytest.raises(TriageError, match="at least 50 tickets with a confidence; there are 49"):
        fit_confidence_map(confidence[:49], right[:49])


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, tiny_model_folder):
    """A run with a random adapter, evaluated with --calibrate, and what was printed."""
    root = tmp_path_factory.mktemp("calibrate")
    data = write_data(root / "data", val=60, test=24)
    run = write_run(root / "runs" / "lora-seed0", data, tiny_model_folder)
    with pytest.MonkeyPatch.context() as patch:
        shown = []
        patch.setattr("builtins.print", lambda *words, **_: shown.append(" ".join(map(str, words))))
        assert main(["evaluate", str(run), "--calibrate", "--free-sample", "0", "--json"]) == 0
    return run, json.loads("\n".join(shown))[str(run)]


def test_fitted_on_val_and_judged_on_test(calibrated):
    run, metrics = calibrated
    stored = read_calibration(run / "adapter", json.loads((run / "adapter" / "triagekit.json").read_text()))
    names = [field.name for field in SCHEMA.label_fields]
    assert list(stored.fields) == names
    assert (stored.split, stored.rows) == ("val", 60)
    assert stored.data_fingerprint == metrics["data_fingerprint"]
    effect = metrics["calibrated"]
    assert (effect["fitted_on"], effect["fitted_rows"]) == ("val", 60)
    assert effect["fields"]["category"]["ece_before"] == metrics["calibration"]["category"]["ece"]
    # Random answers: the raw confidence promises more than there is, and the fit takes it back.
    assert effect["fields"]["priority"]["ece_after"] != effect["fields"]["priority"]["ece_before"]
    assert effect["record"]["ece_before"] == metrics["record_calibration"]["ece"]
    assert [item["threshold"] for item in effect["thresholds"]] == [0.5, 0.8, 0.9, 0.95, 0.99]
    assert json.loads((run / "eval" / "val" / "metrics.json").read_text())["calibrated"] is None


def test_the_tables_and_the_refusal_to_judge_on_val(calibrated, capsys):
    run, _ = calibrated
    assert main(["evaluate", str(run), "--free-sample", "0"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Calibrated on val (60 tickets)" in shown
    assert "the whole record" in shown
    assert "expected by the confidence" in shown
    assert main(["evaluate", str(run), "--calibrate", "--split", "val"]) == 2
    assert "Measure test" in capsys.readouterr().err


def test_a_calibration_that_is_not_this_adapters_is_refused(calibrated, tmp_path):
    run, _ = calibrated
    card = json.loads((run / "adapter" / "triagekit.json").read_text())
    content = json.loads((run / "calibration.json").read_text())
    adapter = tmp_path / "run" / "adapter"
    adapter.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(TriageError, match=r"has no calibration.*triage evaluate .*run --calibrate"):
        read_calibration(adapter, card)
    place = tmp_path / "run" / "calibration.json"
    place.write_text(json.dumps(content))
    assert read_calibration(adapter, card).rows == 60
    with pytest.raises(TriageError, match=r"was fitted for adapter .*--calibrate"):
        read_calibration(adapter, card | {"fingerprint": "0" * 16})
    place.write_text(json.dumps(content | {"rows": 61}))
    with pytest.raises(TriageError, match="was changed after it was written"):
        read_calibration(adapter, card)
    for text in ("", "[]", "{}", json.dumps(content | {"record": {"slope": 1}})):
        place.write_text(text)
        with pytest.raises(TriageError, match="is damaged"):
            read_calibration(adapter, card)
