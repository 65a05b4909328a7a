"""Scoring over several nodes: the script, the ports, the words of `ray start`, and what happens after a stop.

To renew the stored scripts on purpose: TRIAGEKIT_UPDATE_GOLDEN=1 .venv/bin/python -m pytest -q THIS_FILE
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, words_after

from triagekit.cluster import ray_cluster, ray_ports, score_attempt, slurm_commands
from triagekit.cluster.ray_cluster import RayPlace, place_from_slurm, start_words, temp_folder
from triagekit.cluster.ray_ports import BLOCK, BLOCKS, FIRST_PORT, free_ports, ports_of
from triagekit.cluster.ray_script import (
    load_score_settings,
    refuse_second_score,
    score_script,
    score_words,
    submit_score,
)
from triagekit.cluster.sites import load_site
from triagekit.errors import TriageError
from triagekit.scoring.layout import cluster_layout

GOLDEN = Path(__file__).parent / "golden"
PYTHON = "python=/opt/triagekit/bin/python"
PLACE = RayPlace(job=77, nodes=2, node_rank=0, head_address="10.0.0.1", own_address="10.0.0.1")


def script(site, **more):
    settings = load_score_settings("default", ["archive=my archive.csv", "run=runs/lora-seed1", "out=scores/a"])
    folder = Path("scores/a/jobs/1-score")
    words = score_words(settings, folder / "config.yaml")
    return score_script(words, name="score-a", folder=folder, site=site, directory=Path("/project"), **more)


SCRIPTS = {
    "score_generic_one_node": lambda: script(load_site("generic", [PYTHON])),
    "score_test_two_nodes": lambda: script(load_site("test", [PYTHON])),
    "score_successor_four_nodes": lambda: script(load_site("generic", [PYTHON, "requeue=successor"]), nodes=4),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_the_stored_one_and_bash_can_read_it(name):
    text = SCRIPTS[name]().render()
    path = GOLDEN / f"{name}.sbatch"
    if os.environ.get("TRIAGEKIT_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_one_node_needs_no_cluster_and_several_have_a_token_of_their_own():
    one, two = SCRIPTS["score_generic_one_node"]().render(), SCRIPTS["score_test_two_nodes"]().render()
    assert "-m triagekit score 'my archive.csv'" in one and "RAY_AUTH" not in one and "ray_cluster" not in one
    assert "-m triagekit.cluster.ray_cluster -- 'my archive.csv'" in two
    assert two.index("RAY_AUTH_MODE=token") < two.index("/dev/urandom") < two.index("\nsrun ")


def test_plain_script_does_what_the_rendered_one_does(checkout):
    plain = (checkout / "slurm" / "score_ray.sbatch").read_text()
    assert subprocess.run(["bash", "-n"], input=plain, text=True, check=False).returncode == 0
    rendered = SCRIPTS["score_test_two_nodes"]().render()
    for line in rendered.splitlines():
        if line.startswith(("srun", "trap", "export RAY", "RAY_AUTH_TOKEN", "exec")):
            assert line.partition("--max-restarts")[0] in plain, line


@pytest.mark.parametrize("code", [0, 1, 140])
def test_the_exit_code_of_the_work_is_what_ends_the_job(tmp_path, checkout, code):
    log = tmp_path / "log"
    for name, body in {
        "srun": f'echo "srun $RAY_AUTH_TOKEN $*" >> {log}; exit {code}',
        "python": f'echo "python $*" >> {log}; while [ $# -gt 0 ]; do [ "$1" = --code ] && exit "$2"; shift; done',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": "python", "SCRATCH": str(tmp_path), "USER": "me"}
    done = subprocess.run(
        ["bash", str(checkout / "slurm/score_ray.sbatch"), "a b.csv", "--run", "r"], env=environment, check=False
    )
    assert done.returncode == code
    first, last = log.read_text().splitlines()
    token = first.split()[1]
    assert len(token) == 64 and int(token, 16)
    assert f"score_attempt end --code {code}" in last


def test_submission_goes_to_the_scores_own_folder(tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path / "slurm")
    fake.answers("sbatch", ("5\n", "", 0))
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_commands.time, "sleep", lambda seconds: None)
    out = tmp_path / "scores"
    settings = load_score_settings("default", ["archive=a.csv", "run=runs/x", f"out={out}", "workers=3"])
    job = submit_score(settings, load_site("test"), nodes=2)
    assert job.script == out / "jobs/1-score/job.sbatch"
    assert words_after("nodes", job.text) == "2"
    assert "workers: 3" in (job.folder / "config.yaml").read_text()
    (out / "manifest.json").write_text("{}")
    with pytest.raises(TriageError, match="is complete"):
        refuse_second_score(settings)


def test_several_runs_are_one_job_until_all_are_scored(tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path / "slurm")
    fake.answers("sbatch", ("5\n", "", 0))
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_commands.time, "sleep", lambda seconds: None)
    runs, out = [str(tmp_path / "runs" / name) for name in ("tickets", "change risk")], tmp_path / "scores"
    for run in runs:
        (Path(run) / "adapter").mkdir(parents=True)
        (Path(run) / "adapter" / "triagekit.json").write_text("{}")
    settings = load_score_settings("default", ["archive=a.csv", f"out={out}"], runs)
    job = submit_score(settings, load_site("test"), runs=runs, nodes=1)
    assert f"score a.csv --run {runs[0]} --run '{runs[1]}' --out {out}" in job.text
    for name in ("tickets", "change risk"):
        refuse_second_score(settings, runs, ask_slurm=False)
        (out / name).mkdir()
        (out / name / "manifest.json").write_text("{}")
    with pytest.raises(TriageError, match="is complete"):
        refuse_second_score(settings, runs)
    with pytest.raises(TriageError, match="both say which run"):
        load_score_settings("default", ["archive=a.csv", "run=runs/x", f"out={out}"], runs)
    with pytest.raises(TriageError, match="There is no run at"):
        submit_score(settings, load_site("test"), runs=[runs[0], str(tmp_path / "runs" / "other")], dry_run=True)


def test_blocks_of_neighbouring_jobs_do_not_meet_and_stay_below_the_systems_own():
    blocks = [ports_of(job) for job in range(1000, 1000 + BLOCKS)]
    assert len({ports.first for ports in blocks}) == BLOCKS
    for ports in blocks:
        numbers = [int(word.partition("=")[2]) for word in [*ports.options, *ports.head_options]]
        assert len(set(numbers)) == len(numbers)
        assert all(FIRST_PORT <= ports.first <= number < ports.first + BLOCK <= 32768 for number in numbers)


def test_a_taken_block_moves_a_worker_on_and_stops_the_head():
    with socket.socket() as taken:
        for job in range(BLOCKS):
            try:
                taken.bind(("127.0.0.1", ports_of(job).first + 3))
                break
            except OSError:
                continue
        taken.listen()
        assert free_ports(job, "127.0.0.1", must_be_first=False).first != ports_of(job).first
        with pytest.raises(TriageError, match=f"job {job}, are used by another process"):
            free_ports(job, "127.0.0.1", must_be_first=True)


def test_the_words_of_ray_start():
    head = start_words(PLACE, ports_of(77), Path("/tmp/ray-77-0"), 4, 1)
    assert "--head" in head and f"--port={ports_of(77).head}" in head and "--node-ip-address=10.0.0.1" in head
    other = RayPlace(77, 2, 1, "10.0.0.1", "10.0.0.2")
    worker = start_words(other, ports_of(77), Path("/tmp/ray-77-1"), 4, 0)
    assert f"--address=10.0.0.1:{ports_of(77).head}" in worker and "--node-ip-address=10.0.0.2" in worker
    assert "--head" not in worker and not any(word.startswith("--port=") for word in worker)
    for words in (head, worker):
        assert "--block" in words and not any("127.0.0.1" in word or "localhost" in word for word in words)
        assert any(word.startswith("--min-worker-port=") for word in words)


def test_the_folder_of_the_sockets_is_short_and_the_nodes_own(tmp_path):
    assert temp_folder({"TMPDIR": str(tmp_path / ("x" * 80))}, 77, 1) == Path("/tmp/ray-77-1")
    assert temp_folder({"SLURM_TMPDIR": "/tmp"}, 77, 0) != temp_folder({"SLURM_TMPDIR": "/tmp"}, 77, 1)


def step(**more):
    return {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "a[1-2]", "SLURM_NODEID": "1"} | {
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        **more,
    }


def test_the_head_is_the_first_node_by_its_network_address(tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path / "slurm")
    fake.answers("scontrol", ("a1\na2\n", "", 0))
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    monkeypatch.setattr(socket, "gethostbyname", {"a1": "10.0.0.1", "a2": "10.0.0.2"}.__getitem__)
    place = place_from_slurm(step())
    assert (place.is_head, place.head_address, place.own_address) == (False, "10.0.0.1", "10.0.0.2")
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    with pytest.raises(TriageError, match=r"leads to 127\.0\.1\.1, which is each node itself"):
        place_from_slurm(step())
    with pytest.raises(TriageError, match="inside a Slurm job"):
        place_from_slurm({})


def test_outside_a_job_the_command_says_what_to_do(capsys, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert ray_cluster.main(["--", "a.csv", "--run", "r", "--out", "o"]) == 1
    assert "triage submit score" in capsys.readouterr().err


def layout(monkeypatch, nodes, workers, device="cpu", threads=None):
    alive = [{"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}} for cpus, gpus in nodes]
    dead = {"Alive": False, "Resources": {"CPU": 64.0}}
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(nodes=lambda: [*alive, dead]))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    return cluster_layout(workers, device)


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "expected"),
    [
        ([(8, 0), (8, 0)], 0, "cpu", (8, 2, 0)),
        ([(8, 0), (8, 0)], 4, "cpu", (4, 4, 0)),
        ([(8, 0), (4, 0)], 5, "cpu", (5, 2, 0)),
        ([(8, 0), (4, 0)], 2, "cpu", (2, 4, 0)),
        ([(1, 0), (1, 0)], 0, "cpu", (2, 1, 0)),
        ([(8, 2), (8, 2)], 0, None, (4, 4, 1)),
        ([(8, 2), (8, 1)], 0, None, (3, 4, 1)),
        ([(8, 2), (8, 2)], 0, "cpu", (8, 2, 0)),
    ],
)
def test_workers_fit_on_the_nodes_whatever_their_sizes(monkeypatch, nodes, workers, device, expected):
    assert layout(monkeypatch, nodes, workers, device) == expected


def test_threads_that_the_user_set_stay_and_too_many_workers_are_refused(monkeypatch):
    assert layout(monkeypatch, [(8, 0)], 2, threads="1") == (2, 1, 0)
    with pytest.raises(TriageError, match=r"workers=9 do not fit.*room for 4"):
        layout(monkeypatch, [(2, 0), (2, 0)], 9)
    with pytest.raises(TriageError, match="room for 2"):
        layout(monkeypatch, [(8, 1), (8, 1)], 3, device=None)


@pytest.fixture
def job(tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path / "slurm")
    fake.answers("scontrol", ("JobId=7 JobState=RUNNING Reason=None Restarts=1 PreemptTime=None\n", "", 0), ("", "", 0))
    fake.answers("scancel", ("", "", 0))
    fake.answers("sbatch", ("8\n", "", 0))
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(score_attempt.signal, "signal", lambda *words: None)
    return fake


@pytest.mark.parametrize("code", [140, 143])
def test_a_stopped_job_is_requeued(job, code):
    assert score_attempt.main(["end", "--code", str(code)]) == code
    assert ["requeue", "7"] in job.calls("scontrol")


def test_a_cancelled_job_is_not_requeued(job, capsys):
    job.answers("scontrol", ("JobId=7 JobState=CANCELLED Reason=None Restarts=1 PreemptTime=None\n", "", 0))
    assert score_attempt.main(["end", "--code", "143"]) == 143
    assert ["requeue", "7"] not in job.calls("scontrol") and "cancelled" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_finished_or_failed_job_is_not(job, code):
    assert score_attempt.main(["end", "--code", str(code), "--successor", "8"]) == code
    assert not job.calls("scontrol") and job.calls("scancel") == [["8"]]


def test_restarts_have_an_end(job, capsys):
    assert score_attempt.main(["end", "--code", "140", "--max-restarts", "1"]) == 140
    assert not job.calls("scontrol") and "Submit it again" in capsys.readouterr().err


def test_a_successor_is_queued_before_the_work_and_takes_over(job, tmp_path, capsys):
    script = tmp_path / "job.sbatch"
    script.write_text("#!/bin/bash\n")
    assert score_attempt.main(["begin", "--successor", str(script)]) == 0
    assert capsys.readouterr().out.strip() == "8"
    assert "--dependency=afternotok:7" in job.calls("sbatch")[0]
    assert score_attempt.main(["end", "--code", "140", "--successor", "8"]) == 140
    assert not job.calls("scontrol") and not job.calls("scancel")


def test_nothing_ends_the_ray_of_other_jobs(checkout):
    """`ray stop` would: it ends every Ray process of its user on the node."""
    for path in (checkout / "src/triagekit/cluster").glob("*.py"):
        assert '"stop"' not in path.read_text()
    assert "ray stop" not in (checkout / "slurm/score_ray.sbatch").read_text()
    assert ray_ports.MAX_WORKER_PROCESSES > 200
