"""Rendered scripts against stored ones. To renew them on purpose, then read the difference:

TRIAGEKIT_UPDATE_GOLDEN=1 .venv/bin/python -m pytest -q tests/cluster/test_sbatch_golden.py; git diff tests/cluster/golden
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from triagekit import __version__
from triagekit.cluster.job_scripts import evaluate_script, sweep_script, train_script
from triagekit.cluster.sites import load_site

GOLDEN = Path(__file__).parent / "golden"
PYTHON = "python=/opt/triagekit/bin/python"
RUN, ODD = Path("runs/lora-seed1"), Path('runs/it\'s "odd" 100% $HOME run')


def training(site, run, rung, **more):
    folder = run / "jobs" / "1-train"
    return train_script(
        run=run, config=folder / "config.yaml", folder=folder, site=site, rung=rung, directory=Path("/project"), **more
    )


SCRIPTS = {
    "train_csf_2xA100": lambda: training(load_site("csf", [PYTHON]), RUN, "2xA100"),
    "train_csf_24GB_passed_over": lambda: training(
        load_site("csf", [PYTHON]),
        RUN,
        "24GB",
        passed_over=[
            "2xA100: starts in 3 d, later than the 4 h it is worth waiting for",
            "1xA100: partition gpuA is down",
        ],
    ),
    "train_generic_cpu": lambda: training(load_site("generic", [PYTHON]), RUN, "cpu"),
    "train_test_odd_names": lambda: training(load_site("test", [PYTHON]), ODD, "16GB-T4"),
    "train_successor_everything": lambda: training(
        load_site(
            "generic",
            [
                PYTHON,
                "requeue=successor",
                "account=nlp team",
                "modules=[cuda/12.4, apps/python]",
                "offline=false",
                "before=['source /opt/env/bin/activate']",
                "cache=/shared/hf",
                "max_walltime=null",
                "proxies={https_proxy: 'http://proxy:3128'}",
                "defaults.qos=long",
                "defaults.constraint=a100_80g&ib",
                "defaults.options={exclusive: null, nice: 100}",
                "environment={NCCL_DEBUG: WARN}",
            ],
        ),
        RUN,
        "2xA100",
        nodes=2,
    ),
    "sweep_csf": lambda: sweep_script(
        name="methods",
        members=[(Path(f"runs/m/{name}"), Path(f"runs/m/jobs/1-sweep/members/{name}.yaml")) for name in ("a", "b c")],
        folder=Path("runs/m/jobs/1-sweep"),
        site=load_site("csf", [PYTHON]),
        rung="1xA100",
        directory=Path("/project"),
    ),
    "evaluate_csf": lambda: evaluate_script(
        [RUN, ODD],
        folder=RUN / "jobs" / "2-evaluate",
        site=load_site("csf", [PYTHON]),
        words=["--split", "test"],
        directory=Path("/project"),
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_the_stored_one(name):
    text = SCRIPTS[name]().render().replace(f"triagekit {__version__};", "triagekit VERSION;")
    path = GOLDEN / f"{name}.sbatch"
    if os.environ.get("TRIAGEKIT_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_no_stored_script_is_left_over():
    own = {path.stem for path in GOLDEN.glob("*.sbatch")} - {path.stem for path in GOLDEN.glob("score*.sbatch")}
    assert own == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_can_read_the_script(name):
    done = subprocess.run(["bash", "-n"], input=SCRIPTS[name]().render(), text=True, capture_output=True)
    assert done.returncode == 0 and not done.stderr


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.startswith(("train", "sweep"))])
def test_what_survival_rests_on_is_in_every_training_script(name):
    text = SCRIPTS[name]().render()
    signal = re.search(r"^#SBATCH --signal=(\S+)$", text, flags=re.MULTILINE)
    assert signal and re.fullmatch(r"USR2@\d+", signal[1]), "with B: the ranks would not be told"
    assert "#SBATCH --open-mode=append" in text and "#SBATCH --ntasks-per-node=1" in text
    assert ("#SBATCH --requeue" in text) != ("#SBATCH --no-requeue" in text)
    assert text.index(".attempt begin") < text.index("\nsrun ") < text.index(".attempt end")
    assert "$HOME/" not in re.sub(r"runs/[^\n]*", "", text), "no cache below $HOME"


def run_with_stand_ins(tmp_path, name, codes, **variables):
    """Run a rendered script with commands that only write down what they were asked."""
    script = SCRIPTS[name]().render().replace("/opt/triagekit/bin/python", str(tmp_path / "python"))
    log = tmp_path / "log"
    for command, body in {
        "srun": f'echo "srun $*" >> {log}; exit {codes.get("srun", 0)}',
        "python": f'echo "python $*" >> {log}; case "$*" in *begin*) exit {codes.get("begin", 0)};; esac; '
        'while [ $# -gt 0 ]; do case "$1" in --code=*) exit "${1#--code=}";; esac; shift; done',
    }.items():
        (tmp_path / command).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / command).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3", "USER": "me",
        "SCRATCH": str(tmp_path), **variables,
    }  # fmt: skip
    text = script.replace("/tmp/triagekit_test_$USER", str(tmp_path)).replace("/scratch/$USER", str(tmp_path))
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True, env=environment)
    return done, [shlex.split(line) if "'" not in line else line for line in log.read_text().splitlines()]


@pytest.mark.parametrize("code", [0, 1, 140, 143])
def test_the_exit_code_of_the_work_reaches_the_end(tmp_path, code):
    done, log = run_with_stand_ins(tmp_path, "train_generic_cpu", {"srun": code})
    assert done.returncode == code, done.stderr
    assert log[0][:4] == ["python", "-m", "triagekit.cluster.attempt", "begin"]
    assert log[1][0] == "srun" and "--cpus-per-task=3" in log[1] and log[1][-1] == "hardware.rung=cpu"
    assert log[2][-1] == f"--code={code}" and "--run=runs/lora-seed1" in log[2]


@pytest.mark.parametrize(("begin", "code"), [(10, 0), (1, 1)])
def test_no_work_where_there_is_nothing_to_do(tmp_path, begin, code):
    done, log = run_with_stand_ins(tmp_path, "train_generic_cpu", {"begin": begin})
    assert done.returncode == code and len(log) == 1


def test_odd_names_reach_the_commands_whole(tmp_path):
    done, log = run_with_stand_ins(tmp_path, "train_test_odd_names", {})
    assert done.returncode == 0, done.stderr
    assert f"--run={ODD}" in log[0]
    assert f" train {ODD}/jobs/1-train/config.yaml hardware.rung=16GB-T4" in log[1]


def test_a_member_of_an_array_is_the_one_of_its_number(tmp_path):
    done, log = run_with_stand_ins(tmp_path, "sweep_csf", {}, SLURM_ARRAY_TASK_ID="1")
    assert done.returncode == 0, done.stderr
    assert "--run=runs/m/b c" in " ".join(log[0])
    assert "runs/m/jobs/1-sweep/members/b c.yaml hardware.rung=1xA100" in " ".join(log[1])
