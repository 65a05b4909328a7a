"""The test cluster itself: what the other tests rely on is true, and it leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_helpers import job_info, job_log, submit, wait_for_state, wait_until
from mini_slurm import MiniSlurm

pytestmark = pytest.mark.cluster


def test_nodes_are_machines_of_their_own(slurm: MiniSlurm) -> None:
    script = "#!/bin/bash\nsrun bash -c 'echo node $(hostname) gpus $CUDA_VISIBLE_DEVICES'\ngetent hosts a2\n"
    job = submit(slurm, script, "-p", "gpuA", "-N2", "--gres=gpu:a100:2", "-o", f"{slurm.folder}/nodes-%j.out")
    log = job_log(wait_for_state(slurm, job, "COMPLETED"))
    assert "node a1 gpus 0,1" in log
    assert "node a2 gpus 0,1" in log
    assert "a2" in log.splitlines()[-1]


def test_a_crash_kills_all_that_ran_on_the_node(slurm: MiniSlurm, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    job = submit(
        slurm,
        f"#!/bin/bash\ntrap '' TERM\nsetsid bash -c 'while sleep 0.1; do date +%N > {beat}; done' &\nsleep 600\n",
        "-p",
        "gpuS",
        "--no-requeue",
    )
    wait_until(beat.exists, "the job's first beat", slurm=slurm)
    slurm.down("s1", announce=True)
    before = beat.read_text()
    assert wait_for_state(slurm, job, "NODE_FAIL")["BatchHost"] == "s1"
    assert beat.read_text() == before
    slurm.up("s1")
    assert slurm.run("sinfo", "-h", "-n", "s1", "-p", "gpuS", "-o", "%T").strip() == "idle"


def test_controller_comes_back_with_its_jobs(slurm: MiniSlurm, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = submit(slurm, f"#!/bin/bash\nuntil [ -e {go} ]; do sleep 0.1; done\n", "-p", "cpu")
    wait_for_state(slurm, job, "RUNNING")
    slurm.stop_controller()
    go.touch()
    slurm.start_controller()
    assert wait_for_state(slurm, job, "COMPLETED")["JobId"] == job


def test_sacct_stand_in_tells_states(slurm: MiniSlurm) -> None:
    job = submit(slurm, "#!/bin/bash\nexit 3\n", "-p", "cpu")
    wait_for_state(slurm, job, "FAILED")
    text = slurm.run(
        "sacct", "-o", "JobID,State,NodeList", "--parsable2", "-j", job, environment=slurm.environment_with_sacct
    )
    assert text.splitlines() == ["JobID|State|NodeList", f"{job}|FAILED|c1", f"{job}.batch|FAILED|c1"]
    assert job_info(slurm, job)["ExitCode"] == "3:0"


def test_nothing_is_left_when_its_owner_is_killed() -> None:
    code = (
        "import os, signal, mini_slurm\nslurm = mini_slurm.MiniSlurm().start()\n"
        "slurm.run('sbatch', '-p', 'gpuA', '--wrap', 'sleep 1000')\n"
        "print(slurm.folder, slurm._bridge, *(d.pid for d in slurm._daemons.values()), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent, timeout=120
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    folder, bridge, *processes = result.stdout.split()
    wait_until(lambda: not Path(folder).exists(), "the folder to be removed", timeout=30)
    wait_until(lambda: not Path("/sys/class/net", bridge).exists(), "the bridge to be removed", timeout=30)
    alive = [number for number in processes if Path("/proc", number, "exe").exists()]
    assert alive == []


def test_two_clusters_at_once(slurm: MiniSlurm) -> None:
    with MiniSlurm() as other:
        job = submit(other, "#!/bin/bash\nhostname\n")
        wait_for_state(other, job, "COMPLETED")
        assert slurm.run("squeue", "-h") == ""
        assert other.port != slurm.port
    assert not other.folder.exists()
