"""Training jobs on a real Slurm that are cut off in every way a cluster knows, and end with the adapter of a quiet run."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
import yaml
from cluster_helpers import end_soon, job_log, submit, wait_for_state, wait_until
from mini_slurm import MiniSlurm
from training_jobs import STEPS, TrainingJob, assert_same_result, is_warned, losses, make_training_data

from triagekit.files.resources import find_site

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

ONE_GPU = ("--rung", "1xA100")


@pytest.fixture(scope="module")
def workplace(slurm_cluster: MiniSlurm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, as a user has one."""
    return make_training_data(tmp_path_factory.mktemp("survival"))


@pytest.fixture(scope="module")
def reference(slurm_cluster: MiniSlurm, workplace: Path) -> TrainingJob:
    """The run that nothing happened to."""
    job = TrainingJob.submit(slurm_cluster, workplace, "reference", *ONE_GPU)
    assert job.wait("COMPLETED")["Restarts"] == "0"
    assert job.states == ["finished"]
    assert [step for step, split, _ in losses(job.run) if split == "train"] == list(range(1, STEPS + 1))
    return job


def test_time_limit(slurm: MiniSlurm, workplace: Path, reference: TrainingJob) -> None:
    """By requeueing, and on a site that forbids it by a successor, at the same time."""
    own = TrainingJob.submit(slurm, workplace, "limit-requeue", *ONE_GPU)
    chained = TrainingJob.submit(slurm, workplace, "limit-successor", *ONE_GPU, "site.requeue=successor")
    waiting = {own.id: own, chained.id: chained}
    processes: list[int] = []
    with contextlib.ExitStack() as held:

        def hold_in_the_middle() -> bool:
            """Whichever comes to the middle first is held there until the other is."""
            for job in [job for job in waiting.values() if job.step() >= 4]:
                processes.extend(held.enter_context(waiting.pop(job.id).frozen()))
            return not waiting

        wait_until(hold_in_the_middle, "both jobs to be in the middle", 300, slurm)
        for job in (own, chained):
            end_soon(slurm, job.id, 55)
        wait_until(lambda: all(is_warned(one) for one in processes), "the warning", 90)
    assert own.wait("COMPLETED")["Restarts"] == "1"
    assert own.states == ["timeout", "finished"]
    assert own.attempts[0].code == 140
    assert own.attempts[0].step_after == own.attempts[1].step_before >= 4
    assert_same_result(own, reference)

    assert chained.wait("FAILED")["ExitCode"] == "140:0"
    successor = chained.attempts[0].successor
    assert successor is not None
    wait_for_state(slurm, successor, "COMPLETED", timeout=300)
    assert chained.states == ["timeout", "finished"]
    assert [attempt.job for attempt in chained.attempts] == [chained.id, successor]
    assert_same_result(chained, reference)


def test_preemption_node_failure_and_controller_restart(
    slurm: MiniSlurm, workplace: Path, reference: TrainingJob
) -> None:
    job = TrainingJob.submit(slurm, workplace, "hard-life", *ONE_GPU)
    job.wait_for_step(3)
    urgent = submit(slurm, "#!/bin/bash\nsleep 1\n", "-p", "gpuAhi", "-N2", "--gres=gpu:a100:2")
    wait_for_state(slurm, urgent, "COMPLETED")
    wait_until(
        lambda: job.states == ["preempted", "running"], f"the second attempt\n{job_log(job.info())}", slurm=slurm
    )

    job.wait_for_step(7)
    node = job.info()["NodeList"]
    slurm.down(node)
    wait_until(lambda: len(job.states) == 3, f"the third attempt\n{job_log(job.info())}", slurm=slurm)
    assert job.attempts[2].nodes != node
    assert job.states[:2] == ["preempted", "lost"]

    wait_until(job.processes, "the third attempt to train", slurm=slurm)
    slurm.stop_controller(crash=True)
    seen = job.step()
    wait_until(lambda: job.step() > seen or job.run.is_finished, "a step without a controller", 300)
    slurm.start_controller()
    assert job.wait("COMPLETED")["Restarts"] == "2"
    assert job.states == ["preempted", "lost", "finished"]
    assert_same_result(job, reference)


def test_cancelled_and_submitted_again(slurm: MiniSlurm, workplace: Path, reference: TrainingJob) -> None:
    job = TrainingJob.submit(slurm, workplace, "cancelled", *ONE_GPU)
    job.wait_for_step(4)
    slurm.run("scancel", job.id)
    assert job.wait("CANCELLED")["Restarts"] == "0"
    wait_until(lambda: job.states == ["cancelled"], f"the attempt to be closed\n{job_log(job.info())}", 60)
    wait_until(lambda: job.run.status != "running", "the run to be let go", 60)
    assert job.run.status in {"preempted", "stopped"}
    time.sleep(8)
    assert slurm.run("squeue", "-h") == ""
    assert not job.run.is_finished

    again = TrainingJob.submit(slurm, workplace, "cancelled", *ONE_GPU)
    assert again.wait("COMPLETED")["Restarts"] == "0"
    assert again.states == ["cancelled", "finished"]
    assert_same_result(again, reference)


def test_fallback_when_the_first_partition_is_down_or_full(slurm: MiniSlurm, workplace: Path) -> None:
    for policy in ("best-within", "soonest"):
        slurm.run("scontrol", "update", "partition=gpuA", "state=DOWN")
        job = TrainingJob.submit(slurm, workplace, f"down-{policy}", "--policy", policy)
        assert (job.rung, job.info()["Partition"]) == ("16GB-T4", "gpuS")
        slurm.run("scancel", job.id)
        slurm.run("scontrol", "update", "partition=gpuA", "state=UP")
    full = submit(slurm, "#!/bin/bash\nsleep 600\n", "-p", "gpuA", "-N2", "--exclusive", "-t", "60")
    wait_for_state(slurm, full, "RUNNING")
    job = TrainingJob.submit(slurm, workplace, "full", "--policy", "best-within", "--patience", "5m")
    assert (job.rung, job.info()["Partition"]) == ("16GB-T4", "gpuS")
    slurm.run("scancel", job.id)
    patient = TrainingJob.submit(slurm, workplace, "patient", "--policy", "best-within", "--patience", "3h")
    assert patient.info()["Partition"] == "gpuA"
    assert patient.info()["JobState"] == "PENDING"


def test_two_nodes_stop_and_go_on_together(slurm: MiniSlurm, workplace: Path) -> None:
    """One process on each of two nodes, warned in the middle; beside it the same run as one process."""
    site = yaml.safe_load(find_site("test").read_text())
    site["rungs"] = {"2nodes": {"partition": "gpuA", "gres": "gpu:a100:1", "nodes": 2}, **site["rungs"]}
    rung = {"name": "2nodes", "device": "cpu", "count": 1, "nodes": 2, "memory_gb": 1, "precision": "fp32"}
    site["ladder_overrides"]["add"] = [{"before": "1xA100", **rung, "launcher": "cpu_ddp", "sharding": "ddp"}]
    (workplace / "two.yaml").write_text(yaml.safe_dump(site))
    same = ("--site", str(workplace / "two.yaml"), "adapter.dropout=0")
    job = TrainingJob.submit(slurm, workplace, "two-nodes", *same, "--rung", "2nodes")
    alone = TrainingJob.submit(slurm, workplace, "one-node", *same, "--rung", "1xA100")
    job.wait_for_step(3)
    assert job.info()["NodeList"] == "a[1-2]"
    slurm.run("scancel", "-s", "USR2", job.id)
    assert job.wait("COMPLETED", timeout=600)["Restarts"] == "1"
    assert job.states == ["preempted", "finished"]
    assert job.attempts[0].code == 140
    assert job.run.read(job.run.plan)["world"] == 2
    alone.wait("COMPLETED")
    ours, theirs = losses(job.run), losses(alone.run)
    assert [(step, split) for step, split, _ in ours] == [(step, split) for step, split, _ in theirs]
    assert [loss for *_, loss in ours] == pytest.approx([loss for *_, loss in theirs], abs=2e-3)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twenty_random_kills(slurm: MiniSlurm, workplace: Path) -> None:
    """Signals to Slurm's step and kill -9 of what works there, at random moments from the first import to the last step."""
    import os
    import random

    steps = 90
    quiet = TrainingJob.submit(slurm, workplace, "quiet", *ONE_GPU, steps=steps)
    quiet.wait("COMPLETED", timeout=900)
    job = TrainingJob.submit(slurm, workplace, "killed", *ONE_GPU, "site.max_restarts=40", steps=steps)
    chance = random.Random(20)
    kills = 0
    while kills < 20 and not job.run.is_finished:
        begun = len(job.attempts)
        info = job.wait("RUNNING", "COMPLETED", timeout=600)
        if info["JobState"] == "COMPLETED":
            break
        start = job.step()
        # Some in the middle of the imports, most after a few steps.
        if chance.random() < 0.25:
            moment = time.monotonic() + chance.uniform(0.5, 8.0)
            wait_until(lambda moment=moment, start=start: time.monotonic() > moment or job.step() > start, "a moment")
        else:
            goal = start + chance.randint(1, 3)
            wait_until(lambda goal=goal: job.step() >= goal or job.run.is_finished, f"step {goal}", 600, slurm)
        way = chance.choice(["node", "node", "preempt", "warn", "requeue"])
        # Held wherever in a step it is until the blow has fallen: how far a life comes must not depend on the machine's
        # speed, or a fast one is done before its 20 kills.
        with job.frozen(at_least=0):
            info = job.info()
            if info["JobState"] != "RUNNING":
                continue
            node, restarts = info["NodeList"], info["Restarts"]
            if way == "node":
                slurm.down(node, announce=True)
            elif way == "preempt":
                urgent = submit(slurm, "#!/bin/bash\nsleep 1\n", "-p", "gpuAhi", "-N2", "--gres=gpu:a100:2")
                wait_for_state(slurm, urgent, "COMPLETED")
            elif way == "warn":
                slurm.run("scancel", "-s", "USR2", job.id)
            else:
                slurm.run("scontrol", "requeue", job.id)
        kills += 1
        print(f"kill {kills}: {way} at step {job.step()}, attempt {begun}", os.times().elapsed, flush=True)
        wait_until(
            lambda restarts=restarts: job.info()["Restarts"] != restarts or job.run.is_finished,
            f"requeue after {way}\n{job_log(job.info())}",
            300,
            slurm,
        )
        if way == "node":
            slurm.up(node)
    job.wait("COMPLETED", timeout=900)
    assert kills == 20
    assert len(job.attempts) >= 20
    assert_same_result(job, quiet)
