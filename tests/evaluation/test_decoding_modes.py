"""Records in int8 or of fewer fields: measured and calibrated apart from the usual ones, and compared with them."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from evaluation_helpers import SCHEMA, write_data, write_run

from triagekit.cli.main import main
from triagekit.errors import ProblemsError, TriageError
from triagekit.evaluation.intervals import difference_intervals
from triagekit.evaluation.mode_agreement import mode_agreement
from triagekit.evaluation.table import PredictionTable
from triagekit.schema import EnumField, TextField
from triagekit.scoring.confidence_map import ConfidenceMap, StoredCalibration, read_calibration, write_calibration
from triagekit.scoring.decoding_mode import DecodingMode
from triagekit.scoring.policy import ThresholdPolicy
from triagekit.scoring.prepared import prepare_job
from triagekit.scoring.settings import ScoreSettings

INT8_LABELS = DecodingMode.of(SCHEMA, "int8", ["labels"])


def test_names_of_modes():
    assert (DecodingMode().name, DecodingMode().arguments) == ("", "")
    assert INT8_LABELS.name == INT8_LABELS.calibration_name == "int8+labels"
    assert INT8_LABELS.arguments == " --precision int8 --fields labels"
    chosen = DecodingMode.of(SCHEMA, "bf16", ["priority", "category"])
    assert (chosen.fields, chosen.name) == (("category", "priority"), "bf16+category+priority")
    # A float of another length is measured apart, and calibrated alike.
    assert chosen.calibration_name == "category+priority"
    assert DecodingMode.of(SCHEMA, "fp32").calibration_name == ""
    labels = [field.name for field in SCHEMA.label_fields]
    assert DecodingMode.of(SCHEMA, fields=labels) == DecodingMode.of(SCHEMA, fields=["labels"])
    assert DecodingMode.of(SCHEMA, fields=SCHEMA.field_names) == DecodingMode()
    with pytest.raises(ProblemsError, match="does not have it"):
        DecodingMode.of(SCHEMA, fields=["categry"])


def test_a_field_may_be_called_as_a_mode_is():
    fields = (
        TextField("summary"),
        EnumField("labels", ("a", "b")),
        EnumField("int8", ("c", "d")),
        EnumField("team", ("e",)),
    )
    schema = dataclasses.replace(SCHEMA, fields=fields)
    given = [None, ["labels"], ["labels", "int8", "team"], ["int8"], ["labels", "int8"]]
    modes = [DecodingMode.of(schema, fields=names) for names in given] + [DecodingMode("int8")]
    assert len({mode.name for mode in modes}) == len({mode.calibration_name for mode in modes}) == len(modes)
    assert [mode.arguments for mode in modes[1:3]] == [" --fields labels", " --fields labels,int8,team"]


def test_a_mode_of_many_fields_has_a_name_that_a_folder_can_have(monkeypatch):
    monkeypatch.setattr("triagekit.scoring.decoding_mode._LONGEST_NAME", 10)
    first, second = (DecodingMode.of(SCHEMA, fields=["category", name]) for name in ("priority", "team"))
    assert first.name.startswith("2-fields-") and first.name != second.name
    assert first.arguments == " --fields category,priority"


def test_differences_with_their_intervals():
    column = np.array([1.0] * 30 + [-1.0] * 10 + [0.0] * 160)
    found = difference_intervals({"some": column, "none": np.zeros(200)})
    assert found["some"]["value"] == pytest.approx(0.1)
    # Normal theory: 0.1 ± 1.96 · sqrt((40 / 200 - 0.01) / 200).
    assert found["some"]["low"] == pytest.approx(0.04, abs=0.01)
    assert found["some"]["high"] == pytest.approx(0.16, abs=0.01)
    assert found["none"]["low"] == -found["none"]["high"] == pytest.approx(-0.0188, abs=1e-4)
    assert difference_intervals({}) == {}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_model_folder):
    """A run with a random adapter, evaluated as usual, and then labels alone in int8, calibrated."""
    root = tmp_path_factory.mktemp("modes")
    data = write_data(root / "data", val=60, test=24)
    run = write_run(root / "runs" / "lora-seed0", data, tiny_model_folder)
    mode = ["--precision", "int8", "--fields", "labels"]
    shown = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, words in {
            "alone": [*mode],
            "usual": ["--free-sample", "0"],
            "beside": [*mode, "--calibrate"],
        }.items():
            lines = []
            patch.setattr("builtins.print", lambda *given, lines=lines, **_: lines.append(" ".join(map(str, given))))
            assert main(["evaluate", str(run), "--json", *words]) == 0
            shown[name] = json.loads("\n".join(lines))[str(run)]
    return run, shown


def test_each_mode_has_a_place_of_its_own(evaluated):
    run, shown = evaluated
    labels = [field.name for field in SCHEMA.label_fields]
    assert shown["alone"]["mode"] == "int8+labels"
    assert list(shown["alone"]["fields"]) == labels
    assert shown["alone"]["beside_usual"] is None
    assert shown["alone"]["valid_before_constraint"] is None
    assert shown["usual"]["mode"] == "" and "beside_usual" not in shown["usual"]
    assert shown["beside"]["reused"]
    table, key = PredictionTable.read(run / "eval" / "test" / "int8+labels" / "predictions.parquet")
    assert key["mode"] == "int8+labels"
    assert list(table.predicted) == labels
    assert all('"summary"' not in text for text in table.outputs)
    whole, key = PredictionTable.read(run / "eval" / "test" / "predictions.parquet")
    assert "mode" not in key and list(whole.predicted) == list(SCHEMA.field_names)


def test_what_a_mode_costs(evaluated):
    run, shown = evaluated
    folder = run / "eval" / "test"
    table, _ = PredictionTable.read(folder / "int8+labels" / "predictions.parquet")
    usual, _ = PredictionTable.read(folder / "predictions.parquet")
    told = shown["beside"]["beside_usual"]
    labels = [field.name for field in SCHEMA.label_fields]
    assert list(told["fields"]) == labels
    for name in labels:
        pairs = list(zip(table.predicted[name], usual.predicted[name], strict=True))
        assert told["fields"][name]["same"]["value"] == pytest.approx(np.mean([one == two for one, two in pairs]))
        right = [accuracy["fields"][name]["accuracy"]["value"] for accuracy in (shown["beside"], shown["usual"])]
        assert told["fields"][name]["difference"]["value"] == pytest.approx(right[0] - right[1])
    assert min(told["fields"][name]["same"]["value"] for name in labels) < 1, (
        "a test of agreement wants some disagreement"
    )
    exact = [metrics["exact_match"]["value"] for metrics in (shown["beside"], shown["usual"])]
    assert told["labels"]["difference"]["value"] == pytest.approx(exact[0] - exact[1])
    with pytest.raises(ValueError, match="other tickets"):
        mode_agreement(SCHEMA, table, usual.take(range(3)))


def test_the_tables_say_which_mode_and_what_it_costs(evaluated, tmp_path, capsys):
    run = shutil.copytree(evaluated[0], tmp_path / evaluated[0].name)
    words = ["evaluate", str(run), "--precision", "int8", "--fields", "labels"]
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "on test as int8+labels (24 tickets, predictions reused)" in shown
    assert "same value as usual" in shown and "all label fields" in shown
    # A few of those measured before, beside the usual records of the same few.
    assert main([*words, "--limit", "7"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "(7 tickets, the first of those measured before, which stay)" in shown
    assert "same value as usual" in shown
    shutil.rmtree(run / "eval")
    assert main([*words, "--limit", "7"]) == 0
    advice = f"triage evaluate {run} --split test --limit 7"
    assert f"{advice}, then" in " ".join(capsys.readouterr().out.split())
    assert main([*advice.split()[1:], "--free-sample", "0"]) == main([*words, "--limit", "7"]) == 0
    assert "same value as usual" in " ".join(capsys.readouterr().out.split())


def test_each_mode_has_a_calibration_of_its_own(evaluated, tmp_path):
    run, _ = evaluated
    card = json.loads((run / "adapter" / "triagekit.json").read_text())
    stored = read_calibration(run / "adapter", card, INT8_LABELS)
    assert (stored.mode, stored.rows) == ("int8+labels", 60)
    assert list(stored.fields) == [field.name for field in SCHEMA.label_fields]
    with pytest.raises(TriageError, match=r"has no calibration, .* triage evaluate \S+ --calibrate$"):
        read_calibration(run / "adapter", card)
    with pytest.raises(TriageError, match=r"no calibration for --precision int8, .*--calibrate --precision int8$"):
        read_calibration(run / "adapter", card, DecodingMode("int8"))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (tmp_path / "calibration.json").write_text((run / "calibration.int8+labels.json").read_text())
    with pytest.raises(TriageError, match=r"decoded as 'int8\+labels', not as 'whole records'"):
        read_calibration(adapter, card)


def test_an_archive_is_judged_by_the_calibration_of_its_mode(evaluated, tmp_path):
    run, _ = evaluated
    given = {"archive": str(tmp_path / "tickets.csv"), "run": str(run), "out": str(tmp_path / "out"), "auto_at": 0.5}
    job = prepare_job(ScoreSettings(**given, precision="int8", fields=["labels"]))
    assert job.policy is not None and job.policy.calibration.mode == "int8+labels"
    with pytest.raises(TriageError, match=r"no calibration for --fields category,priority"):
        prepare_job(ScoreSettings(**given, fields=["category", "priority"]))


def test_an_adapter_beside_its_quantised_base_is_judged_as_such(evaluated, tmp_path):
    run = tmp_path / "qlora-seed0"
    shutil.copytree(evaluated[0], run)
    path = run / "adapter" / "triagekit.json"
    card = json.loads(path.read_text())
    labels = [field.name for field in SCHEMA.label_fields]
    maps = dict.fromkeys(labels, ConfidenceMap(1.0, 0.0))
    for mode in ("", "nf4"):
        fingerprints = card["fingerprint"], card["schema_fingerprint"], "data"
        write_calibration(run, StoredCalibration(*fingerprints, "val", 80, maps, ConfidenceMap(1.0, 0.0), mode))
    path.write_text(json.dumps({**card, "quantization": {"bits": 4, "type": "nf4"}}))
    assert ThresholdPolicy.of_run(run, 0.5).calibration.mode == ""
    assert ThresholdPolicy.of_run(run, 0.5, merged=False).calibration.mode == "nf4"
    given = {"archive": str(tmp_path / "tickets.csv"), "out": str(tmp_path / "out"), "auto_at": 0.5, "run": str(run)}
    job = prepare_job(ScoreSettings(**given, merged=False))
    assert job.policy is not None and job.policy.calibration.mode == "nf4"
    path.write_text(json.dumps({**card, "quantization": {"bits": 8, "type": "nf4"}}))
    with pytest.raises(TriageError, match=r"beside a base in 8 bits .*merged=true"):
        ThresholdPolicy.of_run(run, 0.5, merged=False)


def test_free_text_alone_has_nothing_to_be_judged_by(evaluated):
    with pytest.raises(TriageError, match="judges labels"):
        ThresholdPolicy.of_run(evaluated[0], 0.5, fields=["summary"])
