"""`triage data`: exit codes, tables, JSON, words in any order, and the inspection of real tokens."""

import json

import pytest

from triagekit.cli.main import main
from triagekit.data.rows import read_rows

SCHEMA = "name: desk\nfields:\n  - {name: category, kind: enum, values: [Hardware, Network]}\n"


def tickets(count):
    for n in range(count):
        words = " ".join(f"part{(n * k + k) % 17}number{n * k}" for k in (1, 3, 5, 7, 11, 13))
        yield {"id": f"T{n}", "text": f"Ticket about {words}", "category": ("Hardware", "Network")[n % 2]}


@pytest.fixture
def source(tmp_path):
    (tmp_path / "desk.yaml").write_text(SCHEMA, encoding="utf-8")
    path = tmp_path / "tickets.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tickets(40)) + "{broken\n", encoding="utf-8")
    return path


def prepared(source, *words):
    out = source.parent / "out"
    arguments = ["data", "prepare", "--source", str(source), "--schema", str(source.parent / "desk.yaml")]
    return main([*arguments, *words, "--out", str(out)]), out


def test_prepare_prints_what_was_kept_and_what_not(source, capsys):
    code, out = prepared(source, "split.val=0.2")
    shown = capsys.readouterr().out
    assert code == 0
    assert "broken JSON" in shown
    assert "leaks across splits" in shown
    assert len(read_rows(out / "val.jsonl")) == 8


def test_prepare_as_json_and_from_a_config_with_words_anywhere(source, capsys):
    config = source.parent / "mine.yaml"
    config.write_text(f"name: mine\nschema: {source.parent / 'desk.yaml'}\nsplit: {{preset: 95:5}}\n")
    arguments = ["data", "prepare", str(config), "split.seed=7", "--source", str(source), "--json", "split.test=0.2"]
    assert main([*arguments, "--out", str(source.parent / "out")]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["name"] == "mine"
    assert (manifest["split"]["seed"], manifest["split"]["test"]) == (7, 0.2)
    assert manifest["counts"]["test"] == 8
    assert manifest["rejects"] == {"broken JSON": 1}


def test_mistakes_exit_with_2_and_the_nearest_name(source, capsys):
    assert prepared(source, "split.sed=1")[0] == 2
    assert "Did you mean 'seed'" in capsys.readouterr().err
    assert main(["data", "prepare"]) == 2
    assert "--source FILE and --schema NAME" in capsys.readouterr().err
    assert main(["data", "prepare", "banking78", "--source", str(source)]) == 2
    assert "banking77" in capsys.readouterr().err


def test_verify_is_0_for_good_and_1_for_changed(source, capsys):
    _, out = prepared(source)
    assert main(["data", "verify", str(out)]) == 0
    assert "no leaks" in capsys.readouterr().out
    with (out / "train.jsonl").open("a") as handle:
        handle.write("\n")
    assert main(["data", "verify", str(out), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["good"]
    assert "train.jsonl" in found["problems"][0]


def test_inspect_counts_tokens_and_shows_what_is_trained(source, capsys, tiny_model_folder):
    _, out = prepared(source)
    capsys.readouterr()
    arguments = ["data", "inspect", str(out), "--base", str(tiny_model_folder), "--max-length", "500"]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["lengths"]["train"]["rows"] == 32
    assert (
        0 < result["lengths"]["train"]["min"] <= result["lengths"]["train"]["p95"] <= result["lengths"]["train"]["max"]
    )
    assert len(result["examples"]) == 5
    trained = "".join(piece["text"] for piece in result["examples"][0] if piece["trained"])
    row = read_rows(out / "train.jsonl")[0]
    assert trained == json.dumps(row.record, separators=(",", ":")) + "<|im_end|>"
    assert main([*arguments]) == 0
    shown = capsys.readouterr().out
    assert "⟦{" in shown
    assert "Hardware" in shown


def test_inspect_counts_what_is_cut(source, capsys, tiny_model_folder):
    _, out = prepared(source)
    arguments = ["data", "inspect", str(out), "--base", str(tiny_model_folder), "--json"]
    capsys.readouterr()
    assert main([*arguments, "--max-length", "2000"]) == 0
    whole = json.loads(capsys.readouterr().out)["lengths"]["train"]
    assert whole["rows_cut"] == 0
    assert main([*arguments, "--max-length", str(whole["max"] - 1)]) == 0
    cut = json.loads(capsys.readouterr().out)["lengths"]["train"]
    assert cut["max"] == whole["max"]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_generated_tickets_prepare_without_rejects(tmp_path, capsys, ending):
    raw = tmp_path / f"raw.{ending}"
    assert main(["data", "generate", "--rows", "300", "--seed", "5", "--out", str(raw)]) == 0
    assert main(["data", "prepare", "it_tickets", "--source", str(raw), "--out", str(tmp_path / "out"), "--json"]) == 0
    shown = capsys.readouterr().out
    manifest = json.loads(shown[shown.index("{") :])
    assert manifest["counts"]["read"] == 300
    assert manifest["counts"]["rejects"] == 0
    assert manifest["leak_check"]["near"] == 0


def test_generate_refuses_what_it_cannot_write(tmp_path, capsys):
    assert main(["data", "generate", "--rows", "3", "--seed", "1", "--out", str(tmp_path / "a.xlsx")]) == 2
    assert main(["data", "generate", "--rows", "0", "--seed", "1", "--out", str(tmp_path / "a.csv")]) == 2
    assert not list(tmp_path.iterdir())
