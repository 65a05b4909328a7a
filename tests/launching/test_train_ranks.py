"""`triage train` with two real processes (gloo): stopped, continued on a lower rung, refused, probed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from training_helpers import rows, write_processed

from triagekit.training.run_folder import RunFolder

pytestmark = pytest.mark.timeout(900)
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
LADDER = {
    "rungs": [
        {"name": "narrow", "count": 2, "device": "cpu", "memory_gb": 0.3, "launcher": "cpu_ddp", "sharding": "ddp"},
        {"name": "two", "count": 2, "device": "cpu", "memory_gb": 8, "launcher": "cpu_ddp", "sharding": "ddp"},
        {"name": "one", "count": 0, "memory_gb": 8},
    ]
}


@pytest.fixture(scope="module")
def place(tiny_model_folder, tmp_path_factory):
    """A folder with a config, a ladder of CPU rungs and a data set."""
    folder = tmp_path_factory.mktemp("launching")
    write_processed(folder / "data", {"train": rows(44, 1), "val": rows(12, 2), "test": rows(4, 3)})
    for rung in LADDER["rungs"]:
        rung["precision"] = "fp32"
    (folder / "ladder.yaml").write_text(yaml.safe_dump(LADDER), encoding="utf-8")
    config = {
        "base": str(tiny_model_folder),
        "data": str(folder / "data"),
        "output": str(folder / "runs"),
        "prompt": {"strategy": "implicit", "max_length": 256},
        "adapter": {"method": "lora", "r": 4, "alpha": 8},
        "batch": {"effective": 8, "micro": 4, "eval": 8},
        "log_every_steps": 1,
        "evaluation": {"every_share": 1.0},
        "hardware": {"ladder": str(folder / "ladder.yaml")},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def start(place, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "triagekit", "train", str(place / "tiny.yaml"), *words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=600)
    return process.returncode, [line for line in errors.splitlines() if line.startswith("triage:")], errors


@pytest.mark.long
def test_a_stopped_run_of_two_processes_goes_on_with_one(place):
    words = ["--name", "a $$ b", "class_weights={category: {Hardware: 2.0}}", "max_steps=300"]
    folder = RunFolder(place / "runs" / "a $$ b")
    process = start(place, "--rung", "two", *words)
    until = time.monotonic() + 400
    while len(folder.metric_lines()) < 3:
        assert process.poll() is None and time.monotonic() < until, finish(process)
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGUSR2)
    code, said, errors = finish(process)
    assert code == 128 + signal.SIGUSR2, errors
    assert "Traceback" not in errors and sum("SIGUSR2: stopped after step" in line for line in said) == 1
    assert folder.status == "preempted"
    step = json.loads(folder.stopped.read_text(encoding="utf-8"))["step"]
    assert (folder.checkpoints / f"checkpoint-{step}").is_dir()

    code, said, errors = finish(start(place, "--rung", "one", *words))
    assert code == 0, errors
    assert any(f"Going on from step {step} of 300" in line for line in said)
    assert not folder.stopped.exists() and folder.read(folder.summary)["steps"] == 300
    starts = folder.read(folder.environment)["starts"]
    assert [(one["rung"], one["world"]) for one in starts] == [("two", 2), ("one", 1)]
    # What the rung changes is how the run is computed, not which run it is.
    assert folder.settings()["batch"]["micro"] == 4 and folder.settings()["precision"] == "auto"

    code, said, _ = finish(start(place, "--rung", "two", *words))
    assert code == 0 and said == [f"triage: {folder.folder} is already finished."]


def test_an_error_of_all_ranks_is_told_once(place):
    code, said, errors = finish(start(place, "--rung", "two", "--name", "lost", f"data={place / 'nothing'}"))
    assert code == 2
    assert errors.count("is not a processed data set") == 1
    assert said[-1].startswith(f"triage: {place / 'nothing'} is not a processed data set")
    assert "Traceback" not in errors


def test_a_rung_with_too_little_memory_is_left_for_the_next(place):
    words = ["--name", "probed", "--rung", "narrow", "hardware.probe=always", "max_steps=3"]
    # The rung between would be tried too; two processes with enough memory are seen above.
    ladder = yaml.safe_dump({"rungs": [LADDER["rungs"][0], LADDER["rungs"][2]]})
    (place / "short.yaml").write_text(ladder, encoding="utf-8")
    code, said, errors = finish(start(place, *words, f"hardware.ladder={place / 'short.yaml'}"))
    assert code == 0, errors
    folder = RunFolder(place / "runs" / "probed")
    assert sum("Rung narrow runs out of memory" in line and "going down to one" in line for line in said) == 1
    probes = folder.read(folder.folder / "probe.json")["probes"]
    assert [(probe["rung"], probe["fits"]) for probe in probes] == [("narrow", False), ("one", True)]
    assert probes[1]["peak_bytes"] > 0
    plan = folder.read(folder.plan)
    assert plan["rung"] == "one" and plan["passed_over"][-1].startswith("narrow: out of memory in a probe")
