"""`triage train` and `triage runs` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from triagekit.cli.main import main
from triagekit.files.atomic import write_json
from triagekit.settings import to_yaml
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings


@pytest.fixture
def runs(tmp_path):
    """Two runs on disk, one finished; written as the trainer writes them."""
    for name, seed in (("lora-seed0", 0), ("hybrid-seed1", 1)):
        method = name.split("-")[0]
        settings = TrainSettings(data="data/processed/demo", seed=seed, adapter={"method": method})
        run = RunFolder.create(tmp_path / name, settings.model_dump(mode="json"), to_yaml(settings))
        write_json(run.plan, {"steps": 40, "matched": [{"name": "x"}], "trainable": 5})
        run.metrics.write_text(
            '{"step": 10, "split": "train", "loss": 2.0}\n{"step": 10, "split": "val", "loss": 1.25}\n{"step": 1',
            encoding="utf-8",
        )
        if seed == 0:
            write_json(run.summary, {"status": "finished", "steps": 40, "seconds": 12.5, "val_loss_best": 0.75})
    return tmp_path


def test_list_shows_status_step_and_best_loss(runs, capsys):
    assert main(["runs", "list", "--root", str(runs), "--json"]) == 0
    hybrid, lora = json.loads(capsys.readouterr().out)
    assert (lora["name"], lora["status"], lora["step"], lora["val_loss_best"]) == ("lora-seed0", "finished", 40, 0.75)
    assert (hybrid["status"], hybrid["step"], hybrid["steps"], hybrid["val_loss_best"]) == ("stopped", 10, 40, 1.25)
    assert hybrid["method"] == "hybrid" and hybrid["seed"] == 1


def test_list_as_a_table(runs, capsys):
    assert main(["runs", "list", "--root", str(runs)]) == 0
    text = capsys.readouterr().out
    assert "lora-seed0" in text and "10/40" in text and "0.7500" in text


def test_a_run_that_is_worked_on_is_running(runs):
    run = RunFolder.open(runs / "hybrid-seed1")
    script = (
        "import sys\nfrom triagekit.training.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).lock():\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(run.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    assert run.status == "running"
    holder.kill()
    holder.wait()
    assert run.status == "stopped"


def test_show_prints_result_plan_and_settings(runs, capsys):
    assert main(["runs", "show", "lora-seed0", "--root", str(runs)]) == 0
    text = capsys.readouterr().out
    assert "finished" in text and "trainable" in text and "optimizer.learning_rate" in text
    assert main(["runs", "show", str(runs / "lora-seed0"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["steps"] == 40


def test_an_unknown_run_is_answered_with_the_nearest(runs, capsys):
    assert main(["runs", "show", "lora-sed0", "--root", str(runs)]) == 2
    assert "Did you mean 'lora-seed0'?" in capsys.readouterr().err


def test_no_folder_of_runs_is_said(tmp_path, capsys):
    assert main(["runs", "list", "--root", str(tmp_path / "none")]) == 2
    assert "no run has been made here" in capsys.readouterr().err


def test_rm_asks_unless_told(runs, capsys):
    target = runs / "lora-seed0"
    assert main(["runs", "rm", str(target)]) == 2
    assert target.is_dir()
    assert main(["runs", "rm", str(target), "--yes"]) == 0
    assert not target.exists() and (runs / "hybrid-seed1").is_dir()


def test_runs_needs_no_torch(runs):
    script = (
        "import sys\nfrom triagekit.cli.main import main\n"
        f"main(['runs', 'list', '--root', {str(runs)!r}, '--json'])\n"
        "assert not {'torch', 'numpy', 'transformers', 'pydantic'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_unknown_preset_is_answered_with_the_nearest(capsys):
    assert main(["train", "lorra"]) == 2
    assert "Did you mean 'lora'?" in capsys.readouterr().err


def test_a_missing_data_set_is_said_without_loading_torch(tmp_path):
    script = (
        "import sys\nfrom triagekit.cli.main import main\n"
        f"code = main(['train', 'lora', 'data={tmp_path}/nothing', 'output={tmp_path}/runs'])\n"
        "assert code == 2 and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "is not a processed data set" in done.stderr


def test_the_learning_rate_test_from_the_command_line(tiny_model_folder, tmp_path, capsys):
    source = tmp_path / "raw.jsonl"
    assert main(["data", "generate", "--rows", "60", "--seed", "3", "--out", str(source)]) == 0
    assert main(["data", "prepare", "it_tickets", "--source", str(source), "--out", str(tmp_path / "data")]) == 0
    capsys.readouterr()
    words = ["train", "lora", f"data={tmp_path / 'data'}", f"base={tiny_model_folder}", f"output={tmp_path}"]
    words += ["batch.effective=4", "batch.micro=4", "prompt.max_length=1024"]
    assert main([*words, "--name", "tried", "--find-lr", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["steepest"] < found["lowest"] and found["steepest"] < found["suggested"] < found["lowest"]
    assert "<svg" in (tmp_path / "tried" / "find_lr" / "losses.svg").read_text()
    # The run itself is not begun by it.
    assert not (tmp_path / "tried" / "metrics.jsonl").exists()
