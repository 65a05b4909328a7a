"""The launchers in jobs/: what submitit is told, what travels, and how a stopped job goes on. Without Slurm."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from stopping_work import STOPPING_WORK

from triagekit.cluster import slurm_commands
from triagekit.cluster.pipeline_settings import PipelineSettings
from triagekit.cluster.site_rungs import SubmitOptions
from triagekit.cluster.sites import load_site
from triagekit.cluster.submitit_jobs import CommandJob, make_executor, slurm_parameters, submit_all, wait_for
from triagekit.cluster.submitit_launch import Launcher, launch_pipeline
from triagekit.errors import TriageError
from triagekit.launching.processes import children_of
from triagekit.settings import to_yaml
from triagekit.training.train import load_train_settings

SBATCH = """#!/bin/bash
if [ "$1" = --test-only ]; then
    echo "sbatch: Job 8 to start at 2026-11-21T06:50:00 using 1 processors on nodes c1 in partition cpu" >&2
    exit 0
fi
echo x >> "{folder}/submitted"
echo "Submitted batch job $((20 + $(wc -l < "{folder}/submitted")))"
"""
LAUNCHERS = ("train", "sweep", "score", "pipeline")


def launcher(checkout, name):
    spec = importlib.util.spec_from_file_location(f"launcher_{name}", checkout / "jobs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A project folder, and commands that answer as Slurm's do; jobs get the numbers 21, 22, …"""
    fake = FakeSlurm(tmp_path / "slurm")
    fake.answers("sbatch", ("", "", 0))
    (fake.folder / "sbatch").write_text(SBATCH.format(folder=fake.folder))
    for name in ("srun", "scontrol", "sacct"):
        fake.answers(name, ("", "", 0))
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_commands.time, "sleep", lambda seconds: None)
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    return fake


def submission(folder):
    """The sbatch file that submitit wrote for a job folder."""
    (path,) = Path(folder).glob("[0-9]*_submission.sh")
    return path.read_text()


def options_of(text):
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_has_an_example_and_says_how_to_get_submitit(checkout, name):
    done = subprocess.run(
        [sys.executable, str(checkout / "jobs" / f"{name}.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert f"Example: python jobs/{name}.py" in done.stdout and "triagekit[cluster]" in done.stdout


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_is_thin(checkout, name):
    assert len((checkout / "jobs" / f"{name}.py").read_text().splitlines()) < 60


def test_without_submitit_the_message_says_what_to_do(checkout, here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert launcher(checkout, "train").main(["lora", "--site", "test"]) == 2
    assert "pip install 'triagekit[cluster]'" in capsys.readouterr().err


def test_what_travels_is_a_list_of_words():
    job = CommandJob(["-m", "triagekit", "train", "runs/x/jobs/1-train/config.yaml", "hardware.rung=2xA100"])
    job._child = subprocess.Popen([sys.executable, "-c", ""])
    job._child.wait()
    text = pickle.dumps(job)
    assert len(text) < 500
    assert pickle.loads(text) == job and not hasattr(pickle.loads(text), "_child")


def test_a_site_becomes_submitits_words():
    site = load_site("generic", ["account=nlp", "modules=[cuda/12.4]", "defaults.options={exclusive: null, nice: 100}"])
    told = slurm_parameters(site, site.place("2xA100"), name="x", nodes=2, at_once=3, dependency="afterok:4")
    assert (told["nodes"], told["tasks_per_node"], told["cpus_per_task"]) == (2, 1, 16)
    assert told["timeout_min"] == 12 * 60 and told["slurm_signal_delay_s"] == 120
    assert (told["slurm_partition"], told["slurm_gres"], told["slurm_mem"]) == ("gpu", "gpu:a100:2", "64G")
    assert told["slurm_account"] == "nlp" and told["slurm_array_parallelism"] == 3
    extra = told["slurm_additional_parameters"]
    assert extra["dependency"] == "afterok:4" and extra["kill-on-invalid-dep"] == "yes"
    assert extra["exclusive"] is True and extra["nice"] == "100" and extra["requeue"] is True
    assert "module load cuda/12.4" in told["slurm_setup"]


def test_what_submitit_cannot_do_is_refused():
    site = load_site("generic", ["requeue=successor"])
    with pytest.raises(TriageError, match="forbids requeueing"):
        slurm_parameters(site, site.place("cpu"), name="x")
    short = load_site("generic", ["rungs.cpu.time_limit=10m"])
    with pytest.raises(TriageError, match="below 11 minutes"):
        slurm_parameters(short, short.place("cpu"), name="x")


def test_a_run_is_submitted_with_what_it_was_told(checkout, here, capsys):
    words = ["lora", "data=data/p", "seed=3", "--site", "test", "--rung", "cpu", "--name", "mine"]
    assert launcher(checkout, "train").main(words) == 0
    folder = Path("runs/mine/jobs/1-train")
    assert f"Submitted train as job 21: {folder}" in capsys.readouterr().out
    card = json.loads((folder / "job.json").read_text())
    assert (card["job_id"], card["rung"], card["launcher"]) == ("21", "cpu", "submitit")
    assert "seed: 3" in (folder / "config.yaml").read_text()
    assert Path("runs/mine/config.yaml").is_file()
    text = submission(folder)
    asked = options_of(text)
    assert asked["partition"] == "cpu" and asked["signal"] == "USR2@60" and asked["open-mode"] == "append"
    assert asked["time"] == "30" and "requeue" in asked and asked["ntasks-per-node"] == "1"
    assert "export HF_HUB_OFFLINE=1" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    (pickled,) = folder.glob("*_submitted.pkl")
    assert pickled.stat().st_size < 5000
    assert b"hardware.rung=cpu" in pickled.read_bytes()


def test_a_sweep_is_one_array_with_the_cap_and_leaves_out_what_is_finished(checkout, here, capsys):
    sweep = launcher(checkout, "sweep")
    words = ["methods_by_seeds", "--site", "test", "--rung", "cpu", "overrides=[data=data/p]", "concurrency=2"]
    done = Path("runs/methods_by_seeds/lora-seed2")
    assert sweep.main(words) == 0
    folder = Path("runs/methods_by_seeds/jobs/1-sweep")
    assert options_of(submission(folder))["array"] == "0-5%2"
    assert len(list(folder.glob("21_*_submitted.pkl"))) == 6
    (done / "summary.json").write_text("{}")
    assert sweep.main(words) == 0
    again = Path("runs/methods_by_seeds/jobs/2-sweep")
    assert options_of(submission(again))["array"] == "0-4%2"
    assert "lora-seed2" not in (again / "members.tsv").read_text()
    for name in [line.split("\t")[1] for line in (folder / "members.tsv").read_text().splitlines()]:
        Path(f"runs/methods_by_seeds/{name}/summary.json").write_text("{}")
    capsys.readouterr()
    assert sweep.main(words) == 0
    assert "Nothing to launch" in capsys.readouterr().out


def test_an_archive_over_two_nodes_forms_a_cluster_with_a_token(checkout, here):
    words = ["default", "archive=a.csv", "run=runs/x", "out=scores/a", "--site", "test"]
    assert launcher(checkout, "score").main(words) == 0
    folder = Path("scores/a/jobs/1-score")
    text = submission(folder)
    assert options_of(text)["nodes"] == "2" and "RAY_AUTH_TOKEN=" in text
    (pickled,) = folder.glob("*_submitted.pkl")
    assert b"triagekit.cluster.ray_cluster" in pickled.read_bytes()


def test_a_pipelines_stages_depend_on_one_another(here):
    pipeline = PipelineSettings.model_validate(
        {
            "name": "p",
            "prepare": {"config": "it_tickets", "source": "x.jsonl", "out": "data/new"},
            "train": {"config": "lora", "seeds": [1, 2]},
            "score": {"archive": "a.csv", "out": "scores/p"},
        }
    )
    launcher = Launcher(load_site("test"), print, SubmitOptions(rung="cpu"))
    launched = launch_pipeline(launcher, pipeline, lambda stage: None)
    assert [(stage.kind, stage.job_id) for stage in launched] == [
        ("prepare", "21"), ("sweep", "22"), ("evaluate", "23"), ("score", "24"), ("compare", "25"),
    ]  # fmt: skip
    after = [options_of(submission(stage.folder)).get("dependency") for stage in launched]
    assert after == [None, "afterok:21", "aftercorr:22", "afterany:23", "afterany:23:24"]
    assert options_of(submission(launched[2].folder))["array"] == "0-1%2"


def test_slurms_refusal_is_told_in_its_own_words(checkout, here, capsys):
    here.answers("sbatch", ("", "sbatch: error: invalid partition specified: nope\n", 1))
    words = ["lora", "data=data/p", "--site", "test", "--rung", "cpu"]
    assert launcher(checkout, "train").main(words) == 2
    assert "invalid partition specified: nope" in capsys.readouterr().err


def test_a_stopped_job_saves_and_goes_on_with_the_same_words(tmp_path):
    """Through submitit's own local executor: its handler, its requeue, its pickles."""
    (seen := tmp_path / "seen").mkdir()
    (script := tmp_path / "work.py").write_text(STOPPING_WORK)
    executor = make_executor(tmp_path / "jobs", None, {})
    (handle,) = submit_all(executor, [CommandJob([str(script), str(seen)], {}, 60.0)])
    until = time.monotonic() + 120
    while not (seen / "ready").exists():
        assert time.monotonic() < until, "the job does not start"
        time.sleep(0.1)
    # As Slurm does it; submitit's own `_interrupt` tells its local controller, which has no handler and dies.
    (task,) = children_of(int(handle.job_id))
    os.kill(task, signal.SIGUSR2)
    assert wait_for(handle, 120) is None
    assert sorted(path.name for path in seen.iterdir()) == ["ready", "saved-1", "start-1", "start-2"]


def test_a_failing_command_is_a_failed_job_and_the_others_go_on(tmp_path, capsys):
    executor = make_executor(tmp_path / "jobs", None, {})
    jobs = [CommandJob(["-c", "raise SystemExit(3)"]), CommandJob(["-c", "print('well')"], {"PYTHONUNBUFFERED": "1"})]
    handles = submit_all(executor, jobs)
    wrong = [wait_for(handle, 120) for handle in handles]
    assert "ended with exit code 3" in wrong[0] and wrong[1] is None
    assert "well" in handles[1].stdout()


def test_a_local_run_needs_no_slurm(checkout, tmp_path, monkeypatch, capsys):
    """The whole launcher with a stand-in for the work: `triage train` itself has its own tests."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("triagekit.cluster.submitit_launch.MODULE", ["-c", "import sys; print(sys.argv[1:])"])
    assert launcher(checkout, "train").main(["lora", "--local", "--name", "mine"]) == 0
    assert "train mine: finished" in capsys.readouterr().out
    settings = load_train_settings("lora", [], "mine")
    assert (tmp_path / "runs/mine/jobs/1-train/config.yaml").read_text() == to_yaml(settings)
