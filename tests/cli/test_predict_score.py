"""`triage predict` and `triage score` as a person meets them."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scoring"))

from scoring_helpers import LABELS_SCHEMA, make_adapter

from triagekit.cli.main import main
from triagekit.scoring.confidence_map import ConfidenceMap, StoredCalibration, write_calibration


@pytest.fixture(scope="module")
def run_folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as far as predicting needs one: a folder with an adapter in it."""
    folder = tmp_path_factory.mktemp("runs") / "lora-seed1"
    folder.mkdir()
    make_adapter(folder / "adapter", tiny_model_folder, LABELS_SCHEMA)
    (folder / "config.yaml").write_text("seed: 1\n", encoding="utf-8")
    return folder


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_predict_words(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run_folder), "printer dead", "vpn down", "--json"]) == 0
    found = lines_of(capsys)
    assert len(found) == 2
    assert set(found[0]["record"]) == set(found[0]["confidence"]) == {"only", "risk", "detail", "marks"}
    assert found[0]["verdict"] == "auto" and found[0]["error"] is None


def test_an_empty_ticket_is_an_error_and_no_record(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run_folder), "  ", "printer", "--json"]) == 1
    empty, good = lines_of(capsys)
    assert empty["record"] is None and empty["verdict"] == "error" and "empty" in empty["error"]
    assert good["verdict"] == "auto"


def test_the_table_names_every_field(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run_folder / "adapter"), "printer [bold]dead[/bold]"]) == 0
    shown = capsys.readouterr().out
    assert "auto: printer [bold]dead" in shown
    assert all(word in shown for word in ("only", "always", "risk", "marks", "1.000"))


def test_a_threshold_that_nothing_reaches_asks_for_review(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run_folder), "printer", "--auto-threshold", "1.0", "--json"]) == 0
    assert lines_of(capsys)[0]["verdict"] == "review"


def test_a_calibrated_threshold_decides_by_the_chance_of_the_record(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(run_folder), "printer", "--json"]) == 0
    plain = lines_of(capsys)[0]
    names = ["only", "risk", "marks"]
    assert plain["overall"] == min(plain["confidence"][name] for name in names)
    assert main(["predict", str(run_folder), "printer", "--auto-at", "0.5"]) == 2
    assert f"Make one: triage evaluate {run_folder} --calibrate" in capsys.readouterr().err
    alone = tmp_path / "copied"
    shutil.copytree(run_folder / "adapter", alone)
    assert main(["predict", str(alone), "printer", "--auto-at", "0.5", "--precision", "int8"]) == 2
    advice = " ".join(capsys.readouterr().err.split())
    assert "triage evaluate RUN --calibrate --precision int8), and copy RUN/calibration.int8.json into" in advice

    run = tmp_path / "lora-seed1"
    shutil.copytree(run_folder, run)
    card = json.loads((run / "adapter" / "triagekit.json").read_text(encoding="utf-8"))
    maps, record = dict.fromkeys(names, ConfidenceMap(1.5, 0.5)), ConfidenceMap(1.0, 2.0)
    fingerprints = card["fingerprint"], card["schema_fingerprint"], "data"
    write_calibration(run, StoredCalibration(*fingerprints, "val", 80, maps, record))
    chance = record(math.prod(plain["confidence"][name] for name in names))
    for threshold, expected in ((chance - 0.01, "auto"), (chance + 0.01, "review")):
        assert main(["predict", str(run), "printer", "--auto-at", str(threshold), "--json"]) == 0
        found = lines_of(capsys)[0]
        assert (found["verdict"], found["overall"]) == (expected, pytest.approx(chance, abs=1e-4))
        assert found["confidence"]["risk"] == pytest.approx(maps["risk"](plain["confidence"]["risk"]), abs=1e-4)
    assert main(["predict", str(run), "printer", "--auto-at", "0.5"]) == 0
    assert f"{chance:.3f}" in next(line for line in capsys.readouterr().out.splitlines() if "all labels right" in line)


def test_thresholds_that_mean_nothing_are_all_named(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--auto-at", "90", "--auto-threshold", "-1", "--free"]
    assert main(["predict", str(run_folder), "printer", *words]) == 2
    message = capsys.readouterr().err
    for part in (
        "--auto-at: 90 is no share",
        "--auto-threshold: -1 is no share",
        "Give one of them",
        "Leave --free out",
    ):
        assert part in message


def test_free_writing_is_parsed_and_kept(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run_folder), "printer", "--free", "--json"]) == 1
    found = lines_of(capsys)[0]
    assert found["verdict"] == "error" and found["raw"] and found["confidence"] == {}


def test_files_and_stdin(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tickets.txt"
    file.write_text("\ufeffprinter dead\n\nvpn down\r\n", encoding="utf-8")
    assert main(["predict", str(run_folder), "--file", str(file), "--json"]) == 0
    from_file = lines_of(capsys)
    monkeypatch.setattr("sys.stdin", io.StringIO('{"body": "printer dead"}\n{"body": "vpn down"}\n'))
    assert main(["predict", str(run_folder), "--text-column", "body", "--json"]) == 0
    assert lines_of(capsys) == from_file and len(from_file) == 2
    assert main(["predict", str(run_folder), "--file", str(file), "--whole", "--json"]) == 0
    assert len(lines_of(capsys)) == 1


@pytest.mark.parametrize(
    ("words", "content", "expected"),
    [
        (
            ["--file", "FILE"],
            '{"text": "a"}\nnot json\n{"txt": "b"}\n',
            ["FILE:2: not JSON", "FILE:3: no text", "'txt'"],
        ),
        (["--file", "FILE"], " \n\n", ["holds no ticket"]),
        (["words", "--file", "FILE"], "x", ["not both"]),
        (["--file", "nowhere.txt"], "", ["No file at nowhere.txt"]),
    ],
)
def test_bad_input_is_explained(
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    content: str,
    expected: list[str],
) -> None:
    file = tmp_path / "tickets.txt"
    file.write_text(content, encoding="utf-8")
    assert main(["predict", str(run_folder), *(word.replace("FILE", str(file)) for word in words)]) == 2
    message = capsys.readouterr().err
    for part in expected:
        assert part.replace("FILE", str(file)) in message


def test_a_wrong_run_is_explained(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run_folder.parent / "lora-seed2"), "x"]) == 2
    assert "Did you mean 'lora-seed1'" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    assert main(["predict", str(tmp_path), "x"]) == 2
    assert "not finished" in capsys.readouterr().err


def test_score_refuses_bad_settings_all_at_once(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "a.csv"
    archive.write_text("id,text\n1,printer\n", encoding="utf-8")
    words = ["score", str(archive), "shard_row=3", "--run", str(run_folder), "--out", str(tmp_path / "out")]
    assert main([*words, "--auto-threshold", "2"]) == 2
    message = capsys.readouterr().err
    assert "unknown key 'shard_row'. Did you mean 'shard_rows'?" in message and "auto_threshold" in message
    assert not (tmp_path / "out").exists()


def test_score_refuses_another_schema_and_a_missing_column(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "a.csv"
    archive.write_text("id,body\n1,printer\n", encoding="utf-8")
    words = ["score", str(archive), "--run", str(run_folder), "--out", str(tmp_path / "out")]
    assert main([*words, "--schema", "it_tickets"]) == 2
    assert "the adapter's is 'labels'" in capsys.readouterr().err
    assert main(words) == 2
    assert "text" in capsys.readouterr().err


def test_score_writes_the_archive_and_says_so(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as parquet

    archive = tmp_path / "a.jsonl"
    archive.write_text('{"subject": "printer", "body": "dead"}\n{"subject": "", "body": ""}\n', encoding="utf-8")
    out = tmp_path / "out"
    words = ["score", str(archive), "--run", str(run_folder), "--out", str(out), "--device", "cpu"]
    words += ["--text-column", "{subject}: {body}", "--workers", "1"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "rows in" in shown and "1 in 1 parts" in shown and "see rejects.jsonl" in shown
    rows = parquet.read_table(out / "part-00000.parquet").to_pylist()
    assert rows[0]["id"] == "a.jsonl:1" and isinstance(rows[0]["marks"], list)
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts_kept"] == 1
