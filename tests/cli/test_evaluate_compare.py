"""`triage evaluate`, `triage baseline`, `triage compare` as a person types them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from triagekit.cli.main import main

for _room in ("compare", "evaluation"):
    sys.path.append(str(Path(__file__).parent.parent / _room))

from evaluation_helpers import write_data, write_run  # noqa: E402
from fake_runs import gold_rows, make_baselines, make_run  # noqa: E402

from triagekit.schema import load_schema  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("cli") / "data", test=20)


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli_compare")
    rows = gold_rows(load_schema("it_tickets"), 80)
    runs = [
        make_run(root / "runs" / method, method, 1, share, rows) for method, share in (("lora", 0.7), ("hybrid", 0.95))
    ]
    make_baselines(root / "data", rows, 0.6)
    return runs


def test_baseline_prints_figures_with_intervals_and_then_json(data, capsys):
    assert main(["baseline", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "tfidf_linear on test (20 tickets)" in shown
    assert "all label fields right" in shown
    assert "%" in shown
    assert "[" in shown
    assert main(["baseline", str(data), "--limit", "10", "--max-train-rows", "50", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["majority"]["rows"] == 10
    assert result["majority"]["train_rows"] == 50


def test_evaluate_prints_and_reuses(data, tiny_model_folder, tmp_path, capsys):
    run = write_run(tmp_path / "runs" / "lora-seed0", data, tiny_model_folder)
    assert main(["evaluate", str(run), "--split", "test", "--limit", "4", "--free-sample", "2"]) == 0
    shown = capsys.readouterr().out
    assert "(4 tickets)" in shown
    assert "valid without the constraint (2 tickets)" in shown
    assert main(["evaluate", str(run), "--limit", "4", "--free-sample", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[str(run)]["reused"] is True


def test_compare_prints_the_main_table_and_writes_the_report(fakes, tmp_path, capsys):
    out = tmp_path / "reports" / "report.html"
    assert main(["compare", *map(str, fakes), "--out", str(out), "--title", "Spring <2026>"]) == 0
    shown = capsys.readouterr().out
    assert "80 tickets of the test split" in shown
    assert "Conditions: comparable" in shown
    assert "hybrid is better than lora by" in shown
    assert str(out) in shown
    assert "<h1>Spring &lt;2026&gt;</h1>" in out.read_text()


def test_compare_as_json(fakes, capsys):
    assert main(["compare", *map(str, fakes), "--json", "--baselines", "none"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [own["name"] for own in result["methods"]] == ["lora", "hybrid"]
    assert result["baselines"] == []


def test_compare_names_the_command_that_is_missing(fakes, tmp_path, capsys):
    bare = make_run(tmp_path / "runs" / "bare", evaluated=False, count=5)
    assert main(["compare", str(fakes[0]), str(bare)]) == 2
    assert f"triage evaluate {bare} --split test" in capsys.readouterr().err
    assert main(["compare", str(fakes[0]), "--baselines", str(tmp_path)]) == 2
    assert f"triage baseline {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--limit", "0"], ["--limit", "-1"], ["--free-sample", "x"]])
def test_bad_numbers_are_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "runs/x", *words])
    assert stop.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "baseline", "compare"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"Example: triage {command}" in capsys.readouterr().out
