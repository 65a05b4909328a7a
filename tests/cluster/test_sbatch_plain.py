"""The scripts in slurm/ for people who do without `triage submit`: they read, and do what the rendered ones do."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from triagekit.cluster.job_scripts import train_script
from triagekit.cluster.plain_run import main
from triagekit.cluster.sites import load_site
from triagekit.files.resources import find_config
from triagekit.hardware.ladder import load_ladder
from triagekit.training.run_folder import RunFolder

TRAINING = ["train_2xa100", "train_1gpu", "train_qlora_4gb", "sweep_array"]
SLURM = Path(__file__).resolve().parents[2] / "slurm"


@pytest.mark.parametrize("path", sorted(SLURM.glob("*.sbatch")), ids=lambda path: path.stem)
def test_bash_reads_it_and_it_is_explained(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    text = path.read_text(encoding="utf-8")
    assert all(len(line) <= 120 for line in text.splitlines())
    assert f"sbatch slurm/{path.name}" in text and "set -euo pipefail" in text
    names = re.findall(r"^#SBATCH --([a-z-]+)", text, flags=re.MULTILINE)
    assert names == sorted(names) and len(set(names)) == len(names)
    assert not re.search(r"\$HOME/|~/", text)


def commands(text):
    """The lines that make a job survive, without what differs from run to run."""
    joined = text.replace("\\\n", " ")
    kept = []
    for line in joined.splitlines():
        if re.match(r"(trap|export TRIAGEKIT_ATTEMPT|begin=|if \[ \"\$begin\"|code=|srun|exec|\"\$PYTHON\")", line):
            line = re.sub(r"\s*#.*|--(run|max-restarts|max-walltime)=\S+ ?|train .* \|\|", " ", line)
            kept.append(" ".join(line.split()))
    return kept


@pytest.mark.parametrize("name", TRAINING)
def test_it_does_what_submit_does(name):
    run = Path("runs/x")
    folder = run / "jobs" / "1-train"
    site = load_site("generic")
    rendered = train_script(run=run, config=folder / "config.yaml", folder=folder, site=site, rung="1xA100").render()
    plain = (SLURM / f"{name}.sbatch").read_text(encoding="utf-8")
    assert commands(plain) == commands(rendered) and len(commands(plain)) == 10
    for option in ("open-mode=append", "ntasks-per-node=1", "requeue", "export=ALL", "signal=USR2@120"):
        assert f"#SBATCH --{option}\n" in plain, option


@pytest.mark.parametrize("name", TRAINING)
def test_its_rung_and_configuration_exist(name):
    text = (SLURM / f"{name}.sbatch").read_text(encoding="utf-8")
    rung = re.search(r'RUNG="\$\{RUNG:-([^}]+)\}"', text)[1]
    assert load_ladder().rung(rung).name == rung
    assert find_config("train", re.search(r'CONFIG="\$\{1:-([^}]+)\}"', text)[1]).is_file()


def asked(tmp_path, name, *words, **variables):
    """What the script's commands were told, with commands that only write it down."""
    log = tmp_path / "log"
    for command in ("srun", "python"):
        (tmp_path / command).write_text(
            f'#!/bin/bash\nprintf "%s\\n" "{command}" "$@" --- >> {log}\n'
            'if [ "$2" = triagekit.cluster.plain_run ]; then echo "runs/of it/$4"; fi\n'
        )
        (tmp_path / command).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SCRATCH": str(tmp_path), "USER": "me", **variables
    }  # fmt: skip
    script = str(SLURM / f"{name}.sbatch")
    done = subprocess.run(["bash", script, *words], capture_output=True, text=True, env=environment, cwd=tmp_path)
    calls = log.read_text().split("---\n")[:-1] if log.is_file() else []
    return done, [call.splitlines() for call in calls]


def test_words_reach_the_work_whole(tmp_path):
    done, calls = asked(tmp_path, "train_1gpu", "my config.yaml", "data=data/my tickets", "seed=3")
    assert done.returncode == 0, done.stderr
    make, begin, work, end = calls
    assert make[3:] == ["--name", "my config-7", "my config.yaml", "data=data/my tickets", "seed=3"]
    assert "--run=runs/of it/my config-7" in begin and "--run=runs/of it/my config-7" in end and "--code=0" in end
    assert work[work.index("train") :] == ["train", "runs/of it/my config-7/config.yaml", "hardware.rung=1xA100"]


def test_name_and_rung_can_be_given(tmp_path):
    done, (make, begin, work, _) = asked(tmp_path, "train_qlora_4gb", NAME="wide", RUNG="8GB")
    assert done.returncode == 0, done.stderr
    assert make[3:] == ["--name", "wide", "qwen2.5-0.5b_qlora"]
    assert "--run=runs/of it/wide" in begin and work[-1] == "hardware.rung=8GB"


@pytest.mark.parametrize(
    ("number", "member"), [(0, "lora-seed1"), (2, "lora-seed3"), (3, "hybrid-seed1"), (5, "hybrid-seed3")]
)
def test_members_of_the_array(tmp_path, number, member):
    variables = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_JOB_ID": "70"}
    done, (make, begin, _, _) = asked(tmp_path, "sweep_array", "lora", "data=x", **variables)
    assert done.returncode == 0, done.stderr
    method, _, seed = member.partition("-seed")
    words = ["data=x", f"adapter.method={method}", f"seed={seed}", "output=runs/sweep-70"]
    assert make[3:] == ["--name", member, "lora", *words], shlex.join(make)
    assert f"--run=runs/of it/{member}" in begin


def test_a_number_beyond_the_members_is_told(tmp_path):
    done, calls = asked(tmp_path, "sweep_array", SLURM_ARRAY_TASK_ID="6", SLURM_ARRAY_JOB_ID="70")
    assert done.returncode == 2 and "2 methods x 3 seeds" in done.stderr and not calls


def test_the_run_of_a_plain_script_is_made_once_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    Path("mine.yaml").write_text("data: d\nseed: 1\n")
    assert main(["--name", "x", "mine.yaml", "output=runs/of it", "epochs=2"]) == 0
    assert capsys.readouterr().out == "runs/of it/x\n"
    run = RunFolder("runs/of it/x")
    assert (run.settings()["seed"], run.settings()["epochs"], run.settings()["name"]) == (1, 2, "x")
    Path("mine.yaml").write_text("data: d\nseed: 2\n")
    assert main(["--name", "x", "mine.yaml", "output=runs/of it", "epochs=2"]) == 2
    assert "other settings" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert main(["--name", "x", "mine.yaml", "output=runs/of it", "epochs=2"]) == 0
    assert run.settings()["seed"] == 1, "a requeued job goes on with what it began with"
    assert main(["--name", "x", "mine.yaml", "sed=1"]) == 2
    assert "Did you mean 'seed'?" in capsys.readouterr().err
