"""`triage tensorboard`: a real TensorBoard over real event files, and nothing left of it afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from triagekit.errors import ProblemsError, TriageError
from triagekit.launching import tensorboard_server
from triagekit.launching.tensorboard_server import describe, find_figures, free_port, log_folder
from triagekit.training.metrics_log import MetricsLog
from triagekit.training.run_folder import RunFolder


@pytest.fixture
def runs(tmp_path):
    for name in ("one", "two"):
        run = RunFolder.create(tmp_path / "runs" / name, {}, "seed: 0\n")
        log = MetricsLog(run, 0)
        log.write({"step": 1, "split": "train", "loss": 2.0, "computed_tokens_share": 0.5})
        log.write({"step": 1, "split": "val", "loss": 2.5, "value_accuracy/category": 0.25})
        log.close()
    return tmp_path / "runs"


def fetch(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return json.loads(answer.read())


def processes_with(text):
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text in (entry / "cmdline").read_bytes().decode("utf-8", "replace"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_it_shows_the_runs_and_ctrl_c_leaves_nothing(runs, tmp_path):
    port = free_port("127.0.0.1", None)
    command = [sys.executable, "-m", "triagekit", "tensorboard", str(runs / "one"), str(runs / "two"), f"--port={port}"]
    environment = {**os.environ, "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22", "USER": "ada", "TMPDIR": str(tmp_path)}
    environment.pop("SLURM_JOB_ID", None)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        said = process.stdout.readline()
        assert f"TensorBoard shows 2 runs at http://127.0.0.1:{port}/" in said, said or process.stderr.read()
        assert f"ssh -N -L {port}:127.0.0.1:{port} ada@" in process.stdout.readline()
        assert sorted(fetch(port, "/data/runs")) == ["one", "two"]
        tags = fetch(port, "/data/plugin/scalars/tags")
        expected = {"train/loss", "train/computed_tokens_share", "val/loss", "val/value_accuracy/category"}
        assert set(tags["one"]) == set(tags["two"]) == expected
        links = list(tmp_path.glob("triagekit-tensorboard-*"))
        assert len(links) == 1 and len(processes_with(str(links[0]))) >= 1
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and "Traceback" not in error, error
    assert processes_with(str(links[0])) == [] and not links[0].exists()
    with pytest.raises(OSError):
        fetch(port, "/data/runs")


def test_every_place_without_figures_is_named_at_once(runs, tmp_path):
    bare = RunFolder.create(tmp_path / "bare", {}, "seed: 0\n")
    with pytest.raises(ProblemsError) as caught:
        find_figures([runs / "one", bare.folder, runs / "tow", tmp_path / "nothing"])
    assert [problem.where for problem in caught.value.problems] == [
        str(bare.folder),
        str(runs / "tow"),
        str(tmp_path / "nothing"),
    ]
    assert "has no TensorBoard files" in str(caught.value) and "Did you mean 'two'" in str(caught.value)


def test_a_folder_of_runs_is_watched_as_it_is_and_names_do_not_collide(runs, tmp_path):
    assert list(find_figures([runs])) == ["one", "two"]
    with log_folder([runs], find_figures([runs])) as folder:
        assert folder == runs.resolve()
    other = RunFolder.create(tmp_path / "others" / "one", {}, "seed: 0\n")
    other.tensorboard.mkdir()
    found = find_figures([runs / "one", other.folder])
    assert list(found) == ["one", "others-one"]
    with log_folder([runs / "one", other.folder], found) as folder:
        assert (folder / "others-one").resolve() == other.tensorboard.resolve()
    assert not folder.exists()


def test_a_port_in_use_is_passed_over_or_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TriageError, match=f"Port {port} cannot be used"):
            free_port("127.0.0.1", port)


def test_the_next_free_port_is_taken(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(tensorboard_server, "FIRST_PORT", taken.getsockname()[1])
        assert free_port("127.0.0.1", None) > taken.getsockname()[1]


def test_a_missing_package_is_said_with_what_to_do(runs, monkeypatch):
    monkeypatch.setattr(tensorboard_server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TriageError, match="pip install tensorboard"):
        tensorboard_server.serve([runs], None, False, print)


def test_where_to_look_from_elsewhere():
    assert len(describe(1, 6006, False, {})) == 1
    job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_HOST": "login1", "USER": "ada"}
    assert "ssh -N -L 6006:127.0.0.1:6006 -J ada@login1 ada@" in describe(1, 6006, False, job)[1]
    assert "no password" in describe(2, 6006, True, job)[1]
