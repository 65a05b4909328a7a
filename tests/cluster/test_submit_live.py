"""Submitting to a real Slurm: what was written is what Slurm read, and the rung falls back as the cluster fills."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster_helpers import job_info, job_log, submit, wait_for_state, wait_until
from fake_slurm import processed_data
from mini_slurm import MiniSlurm
from training_jobs import SMALL, TrainingJob, assert_same_result, make_training_data

from triagekit.cluster import slurm_commands
from triagekit.cluster.job_folder import next_job_folder
from triagekit.cluster.job_scripts import job_options, place_options
from triagekit.cluster.sbatch_script import SbatchScript
from triagekit.cluster.site_rungs import SubmitOptions
from triagekit.cluster.sites import load_site
from triagekit.cluster.slurm_errors import SlurmError
from triagekit.cluster.submit import jobs_of, submit_job
from triagekit.cluster.submit_train import SubmittedTraining, submit_train
from triagekit.errors import TriageError
from triagekit.training.train import load_train_settings

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PLAIN_SCRIPTS = Path(__file__).resolve().parents[2] / "slurm"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder whose very name has to be quoted."""
    folder = tmp_path / 'it\'s a "project" #1'
    processed_data(folder / "data")
    monkeypatch.chdir(folder)
    return folder


def train(name: str, site_words: tuple[str, ...] = (), **options: object) -> SubmittedTraining:
    settings = load_train_settings("lora", ["data=data"], name)
    return submit_train(settings, load_site("test", site_words), SubmitOptions(**options), print)


def test_odd_names_come_back_whole(slurm_here: MiniSlurm, project: Path) -> None:
    site = load_site("test", ["environment={WORDS: 'a \"b\" $(touch evil) `touch evil`'}"])
    owner = Path('runs/100%j of it\'s "odd" $HOME #2')
    folder = next_job_folder(owner, "train")
    options = {**job_options(owner.name, folder, site, directory=project), **place_options(site.place("cpu"), site)}
    words = "'a \"b\" $(touch evil) `touch evil`'"
    body = [f"export WORDS={words}", 'printf "%s\\n" "$PWD" "$WORDS" "$SLURM_JOB_NAME"; sleep 3']
    job = submit_job(SbatchScript(options, body), folder, "train", site, rung="cpu")
    assert [queued.array_job_id for queued in jobs_of(owner)] == [job.job_id]
    assert not jobs_of(Path("runs/other"))
    info = wait_for_state(slurm_here, job.job_id, "COMPLETED")
    told = (folder / f"{job.job_id}.log").read_text().splitlines()
    assert told == [str(project), 'a "b" $(touch evil) `touch evil`', "100-j-of-it-s-odd-HOME-2"]
    assert info["Requeue"] == "1" and info["Partition"] == "cpu" and info["TimeLimit"] == "00:30:00"
    assert not list(project.rglob("evil")) and not jobs_of(owner)


def fill(slurm: MiniSlurm, count: int = 2) -> list[str]:
    """Jobs that hold all of gpuA's GPUs for an hour."""
    script = "#!/bin/bash\nsleep 3600\n"
    jobs = [submit(slurm, script, "-p", "gpuA", "--gres=gpu:a100:2", "-t", "60", "--mem=100M") for _ in range(count)]
    for job in jobs:
        wait_for_state(slurm, job, "RUNNING")
    return jobs


def test_fallback_when_the_first_rungs_partition_is_down(slurm_here: MiniSlurm, project: Path) -> None:
    slurm_here.run("scontrol", "update", "partition=gpuA", "state=DOWN")
    done = train("down", policy="best")
    assert done.job.rung == "16GB-T4"
    assert done.choice.passed_over == (
        "2xA100: partition gpuA is down",
        "1xA100: partition gpuA is down",
        "24GB: not served by site test",
    )
    wait_until(lambda: job_info(slurm_here, done.job.job_id)["Partition"] == "gpuS", "the job's partition")


def test_fallback_when_the_only_nodes_are_drained(slurm_here: MiniSlurm, project: Path) -> None:
    slurm_here.run("scontrol", "update", "node=a1,a2", "state=DRAIN", "reason=test")
    try:
        assert train("drained", policy="best").job.rung == "16GB-T4"
    finally:
        slurm_here.run("scontrol", "update", "node=a1,a2", "state=RESUME")


def test_fallback_when_the_first_rungs_partition_is_full(slurm_here: MiniSlurm, project: Path) -> None:
    fill(slurm_here)
    soon = train("soon", policy="best-within", patience="5m")
    assert soon.job.rung == "16GB-T4"
    assert soon.choice.passed_over[0].startswith("2xA100: starts in ")
    waits = {answer.rung: answer.wait for answer in soon.choice.answers}
    assert 3000 < waits["2xA100"] <= 3600 and waits["16GB-T4"] < 60
    patient = train("patient", policy="best-within", patience="2h")
    assert patient.job.rung == "2xA100" and patient.choice.passed_over == ()
    assert job_info(slurm_here, patient.job.job_id)["JobState"] == "PENDING"
    with pytest.raises(TriageError, match=rf"has a job already: {patient.job.job_id} \(pending, gpuA\)"):
        train("patient")


def test_slurm_refuses_in_its_own_words(slurm_here: MiniSlurm, project: Path) -> None:
    with pytest.raises(TriageError, match=r"(?s)invalid partition specified: gpuAx.*Did you mean 'gpuA'\?"):
        train("wrong", ("rungs.1xA100.partition=gpuAx",), rung="1xA100")
    with pytest.raises(SlurmError, match=r"(?s)Requested node configuration is not available.*sinfo -o"):
        train("greedy", ("rungs.1xA100.memory=900G",), rung="1xA100")
    many = train("many", ("rungs.2xA100.gres=gpu:a100:3",), policy="best")
    assert many.job.rung == "1xA100" and "Requested node configuration" in many.choice.passed_over[0]


def test_submitting_while_the_controller_restarts(slurm_here: MiniSlurm, project: Path) -> None:
    script = SbatchScript({"partition": "cpu", "mem": "100M"}, ["echo done"])
    slurm_here.stop_controller()
    with ThreadPoolExecutor(1) as pool:
        # Not the other way round: the controller would end with the thread that started it.
        submitting = pool.submit(submit_job, script, Path("scores/x"), "score", load_site("test"))
        time.sleep(3.0)
        assert not submitting.done()
        slurm_here.start_controller()
        job = submitting.result(timeout=60)
    info = wait_for_state(slurm_here, job.job_id, "COMPLETED")
    assert job_log(info).endswith("done\n")
    assert slurm_commands.sacct_state(job.job_id).state == "COMPLETED"


def test_dependencies_and_what_becomes_of_those_that_never_can(slurm_here: MiniSlurm, project: Path) -> None:
    site = load_site("test")
    bad = submit_job(SbatchScript({"partition": "cpu", "mem": "100M"}, ["exit 3"]), Path("a"), "prepare", site)
    after = SbatchScript({"partition": "cpu", "mem": "100M"}, ["echo never"])
    waiting = submit_job(after, Path("b"), "evaluate", site, dependency=f"afterok:{bad.job_id}")
    wait_for_state(slurm_here, waiting.job_id, "CANCELLED")
    assert slurm_commands.sacct_state(bad.job_id).exit_code == 3


def test_the_plain_script_and_submit_give_the_same_adapter(
    slurm_here: MiniSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_training_data(tmp_path / "work")
    script = Path(shutil.copy(PLAIN_SCRIPTS / "train_1gpu.sbatch", work))
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # as the site of the tests has it
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("NAME", "plain")
    monkeypatch.setenv("RUNG", "cpu")
    monkeypatch.setenv("PYTHON", sys.executable)
    options = ["-p", "gpuA", "--gres=gpu:a100:1", "-c", "1", "--mem=1500M", "-t", "20"]
    words = ["lora", *SMALL, "max_steps=3"]
    sent = subprocess.run(
        ["sbatch", "--parsable", *options, str(script), *words], cwd=work, capture_output=True, text=True, check=True
    )
    submitted = TrainingJob.submit(slurm_here, work, "submitted", "--rung", "cpu", steps=3)
    info = wait_for_state(slurm_here, sent.stdout.strip(), "COMPLETED", timeout=400)
    assert info["JobName"] == "train-1gpu" and info["Requeue"] == "1"
    submitted.wait("COMPLETED", timeout=400)
    plain = TrainingJob(slurm_here, type(submitted.run)(work / "runs" / "plain"), sent.stdout.strip(), "cpu")
    assert plain.states == ["finished"] == submitted.states
    assert_same_result(plain, submitted)
    plan = submitted.run.read(submitted.run.plan)
    assert plan["rung"] == "cpu"


def test_squeue_and_sinfo_are_read_from_the_real_thing(slurm_here: MiniSlurm, project: Path) -> None:
    script = SbatchScript({"partition": "cpu", "array": "0-3%1", "mem": "100M", "job-name": "a|b c"}, ["sleep 30"])
    job = submit_job(script, Path("s"), "sweep", load_site("test"))
    until = time.monotonic() + 30
    while len(queued := slurm_commands.squeue([job.job_id])) < 2 and time.monotonic() < until:
        time.sleep(0.2)
    assert {entry.name for entry in queued} == {"a|b c"} and {entry.array_job_id for entry in queued} == {job.job_id}
    assert {entry.state for entry in queued} == {"RUNNING", "PENDING"}
    assert slurm_commands.squeue(["999999"]) == []
    partitions = {entry.name: entry for entry in slurm_commands.sinfo_partitions()}
    assert {"cpu", "gpuA", "gpuAhi", "gpuS"} <= set(partitions)
    assert partitions["cpu"].default and partitions["gpuA"].gres == "gpu:a100:2"
    slurm_commands.scancel(job.job_id)
    wait_until(lambda: not slurm_commands.squeue([job.job_id]), "the array to be gone")
