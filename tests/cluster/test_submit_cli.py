"""`triage submit` from the outside: a script on stdout, all else on stderr, nothing heavy imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, processed_data, starts

from triagekit.cli.main import main
from triagekit.training.run_folder import RunFolder

BLOCKED = ["torch", "transformers", "numpy", "pandas", "pyarrow", "peft", "accelerate", "ray", "submitit", "datasets"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    processed_data(folder / "data")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def fake(tmp_path, monkeypatch, project):
    commands = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{commands.folder}:/usr/bin:/bin")
    return commands


def test_a_dry_run_needs_neither_slurm_nor_anything_heavy(project, tmp_path):
    """As on a login node with a bare install: the heavy packages are not there at all."""
    program = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {BLOCKED!r}: raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from triagekit.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["submit", "train", "lora", "data=data", "seed=4", "--site", "csf", "--name", "a b", "--dry-run"]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash --login\n") and "#SBATCH --partition=gpuA" in done.stdout
    assert subprocess.run(["/bin/bash", "-n"], input=done.stdout, text=True).returncode == 0
    assert "chosen" in done.stderr and "No Slurm on this machine" in done.stderr
    assert not (project / "runs").exists()


def test_submitting_says_which_job_and_where_its_log_is(fake, capsys):
    fake.answers("sbatch", *[starts("2020-01-01T00:00:00", "gpu")] * 3, ("41\n", "", 0))
    assert main(["submit", "train", "lora", "data=data", "--site", "generic", "--name", "mine"]) == 0
    out = capsys.readouterr().out
    assert "Submitted job 41: runs/mine/jobs/1-train/job.sbatch" in out and "runs/mine/jobs/1-train/41" in out
    assert "When each rung would start" in out and "chosen" in out


def test_json_has_the_job_and_the_choice(fake, capsys):
    fake.answers("sbatch", *[starts("2020-01-01T00:00:00", "gpu")] * 3, ("41\n", "", 0))
    assert main(["submit", "train", "lora", "data=data", "--site", "generic", "--name", "mine", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["jobs"][0]["job_id"] == "41" and told["jobs"][0]["rung"] == "2xA100" and told["passed_over"] == []
    assert [row["chosen"] for row in told["starts"]] == [True, False, False]


def test_words_for_the_site_change_it(project, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["site.account=nlp team", "site.rungs.2xA100.partition=big", "site.requeue=successor", "data=data"]
    assert main(["submit", "train", "lora", *words, "--site", "generic", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert '#SBATCH --account="nlp team"' in out and "#SBATCH --partition=big" in out and "#SBATCH --no-requeue" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lora", "--site", "cfs"], "Did you mean 'csf'?"),
        (["lroa", "--site", "csf"], "Did you mean 'lora'?"),
        (["lora", "data=data", "sed=1", "--site", "csf"], "Did you mean 'seed'?"),
        (["lora", "data=data", "site.acount=x", "--site", "csf"], "Did you mean 'account'?"),
        (["lora", "data=data", "--site", "csf", "--rung", "4GB"], "does not serve the rung '4GB'"),
    ],
)
def test_mistakes_get_the_nearest_name(project, words, told, capsys):
    assert main(["submit", "train", *words, "--dry-run"]) == 2
    assert told in capsys.readouterr().err


def test_evaluating_runs_that_are_not_ready_is_refused_all_at_once(fake, capsys):
    RunFolder.create(Path("runs/half"), {"seed": 1}, "seed: 1\n")
    assert main(["submit", "evaluate", "runs/half", "runs/none", "--site", "generic"]) == 2
    told = capsys.readouterr().err
    assert "runs/half: is not finished" in told and "No run at runs/none" in told


def test_evaluating_submits_one_job_for_all_runs(fake, capsys):
    for name in ("a", "b"):
        RunFolder.create(Path("runs") / name, {"seed": 1}, "seed: 1\n").write_summary({"steps": 1})
    fake.answers("sbatch", ("50\n", "", 0))
    words = [
        "submit",
        "evaluate",
        "runs/a",
        "runs/b",
        "--site",
        "generic",
        "--split",
        "val",
        "--limit",
        "9",
        "--fields",
        "category,priority",
        "--precision",
        "int8",
        "--calibrate",
        "--after",
        "4:5",
    ]
    assert main(words) == 0
    assert "Submitted job 50: runs/a/jobs/1-evaluate/job.sbatch, after afterok:4:5" in capsys.readouterr().out
    text = Path("runs/a/jobs/1-evaluate/job.sbatch").read_text()
    assert (
        "-m triagekit evaluate runs/a runs/b --split val --limit 9 --fields category,priority --precision int8 --calibrate"
        in text
    )
    assert "--dependency=afterok:4:5" in fake.calls("sbatch")[0]


def test_help_explains_the_policies(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["submit", "train", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "best-within" in out and "Example: triage submit train" in out and "site.account=" in out
