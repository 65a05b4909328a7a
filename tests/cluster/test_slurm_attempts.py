"""The attempts of a job on a real Slurm, with work that only counts: every way a job can end, and what comes of it."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import pytest
from cluster_helpers import end_soon, job_info, job_log, job_state, submit, wait_for_state, wait_until
from mini_slurm import MiniSlurm

from triagekit.cluster.attempt import Attempt, read_attempts

pytestmark = pytest.mark.cluster

WORK = Path(__file__).with_name("counting_work.py")

SCRIPT = """#!/bin/bash
#SBATCH --open-mode=append
#SBATCH --signal=USR2@60
#SBATCH --mem=100M
{options}
set -euo pipefail
export TRIAGEKIT_ATTEMPT="${{SLURM_JOB_ID}}.${{SLURM_RESTART_COUNT:-0}}"
{before}
begin=0
{python} -m triagekit.cluster.attempt begin --run {run} {begin} || begin=$?
if [ "$begin" -eq 10 ]; then exit 0; fi
if [ "$begin" -ne 0 ]; then exit "$begin"; fi
trap : TERM
code=0
srun {python} {work} {run} {words} || code=$?
trap '' TERM
exec {python} -m triagekit.cluster.attempt end --run {run} --code "$code"
"""


class Job:
    """One counting job: its run folder, its script, its ids."""

    def __init__(
        self, slurm: MiniSlurm, run: Path, words: str, *options: str, begin: str = "", before: str = ":"
    ) -> None:
        self.slurm, self.run = slurm, run
        run.mkdir(parents=True)
        self.script = run / "job.sbatch"
        successor = f"--successor --script {self.script}" if "--no-requeue" in options else ""
        self.script.write_text(
            SCRIPT.format(
                options="\n".join(f"#SBATCH {option}" for option in (*options, f"-o {run}/log")),
                python=shlex.quote(sys.executable),
                run=run,
                begin=f"{begin} {successor}",
                before=before,
                work=WORK,
                words=words,
            )
        )
        self.id = submit(slurm, self.script)

    @property
    def attempts(self) -> list[Attempt]:
        """As the project reads them."""
        return read_attempts(self.run)

    @property
    def states(self) -> list[str]:
        """How the attempts ended."""
        return [attempt.state for attempt in self.attempts]

    def steps(self) -> list[int]:
        """The steps counted, in order."""
        lines = (self.run / "metrics.jsonl").read_text().splitlines() if (self.run / "metrics.jsonl").exists() else []
        return [int(line.split(":")[1].split(",")[0]) for line in lines]

    def wait_for_step(self, step: int) -> None:
        """Until so many steps are counted."""
        wait_until(lambda: max(self.steps(), default=0) >= step, f"step {step} of {self.run}", slurm=self.slurm)

    def wait(self, *states: str) -> dict[str, str]:
        """Until the job is in one of these states."""
        return wait_for_state(self.slurm, self.id, *states)

    def log(self) -> str:
        """All it wrote, over all its starts."""
        return job_log(job_info(self.slurm, self.id))


def test_ends_without_trouble(slurm: MiniSlurm, tmp_path: Path) -> None:
    good = Job(slurm, tmp_path / "good", "3 0.1")
    crash = Job(slurm, tmp_path / "crash", "3 0.1 1")
    wrong = Job(slurm, tmp_path / "wrong", "3 0.1 2")
    again = Job(slurm, tmp_path / "again", "3 0.1")
    liar = Job(slurm, tmp_path / "liar", "9 0.1 0")
    assert good.wait("COMPLETED")["Restarts"] == "0"
    assert good.states == ["finished"]
    assert crash.wait("FAILED")["ExitCode"] == "1:0"
    assert wrong.wait("FAILED")["ExitCode"] == "2:0"
    assert (crash.states, wrong.states) == (["failed"], ["failed"])
    assert job_info(slurm, crash.id)["Restarts"] == job_info(slurm, wrong.id)["Restarts"] == "0"
    # 0 without the run's own marker is no success.
    assert liar.wait("FAILED")["ExitCode"] == "1:0"
    again.wait("COMPLETED")
    second = submit(slurm, again.script)
    wait_for_state(slurm, second, "COMPLETED")
    assert again.states == ["finished"]
    assert "is finished: nothing to do" in again.log()


def test_time_limit_requeues_and_goes_on(slurm: MiniSlurm, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path / "run", "250 0.2")
    job.wait_for_step(3)
    end_soon(slurm, job.id, 45)
    assert job.wait("COMPLETED")["Restarts"] == "1"
    assert job.states == ["timeout", "finished"]
    assert job.steps() == list(range(1, 251))
    assert job.attempts[0].code == 140
    assert job.attempts[1].step_before == job.attempts[0].step_after > 0


def test_preemption_with_and_without_grace(slurm: MiniSlurm, tmp_path: Path) -> None:
    for grace in (0, 30):
        slurm.run("scontrol", "update", "partition=gpuA", f"GraceTime={grace}")
        job = Job(slurm, tmp_path / f"grace{grace}", "250 0.2", "-p gpuA", "--gres=gpu:a100:2")
        job.wait_for_step(3)
        urgent = submit(slurm, "#!/bin/bash\nsleep 2\n", "-p", "gpuAhi", "-N2", "--gres=gpu:a100:2")
        wait_for_state(slurm, urgent, "COMPLETED")
        assert job.wait("COMPLETED")["Restarts"] == "1"
        assert job.states == ["preempted", "finished"]
        assert job.steps() == list(range(1, 251))


def test_cancelled_jobs_stay_cancelled(slurm: MiniSlurm, tmp_path: Path) -> None:
    own = Job(slurm, tmp_path / "own", "2000 0.1")
    chained = Job(slurm, tmp_path / "chained", "2000 0.1", "--no-requeue")
    for job in (own, chained):
        job.wait_for_step(3)
    successor = chained.attempts[0].successor
    assert successor is not None
    slurm.run("scancel", own.id, chained.id)
    for job in (own, chained):
        assert job.wait("CANCELLED")["Restarts"] == "0"
        wait_until(lambda job=job: job.states == ["cancelled"], "the attempt to be closed", timeout=30)
    wait_for_state(slurm, successor, "CANCELLED")
    time.sleep(8)
    assert [job_state(slurm, job) for job in (own.id, chained.id, successor)] == ["CANCELLED"] * 3


def test_successors_where_requeueing_is_forbidden(slurm: MiniSlurm, tmp_path: Path) -> None:
    timed = Job(slurm, tmp_path / "timed", "250 0.2", "--no-requeue")
    crash = Job(slurm, tmp_path / "crash", "9 0.5 1", "--no-requeue")
    timed.wait_for_step(3)
    end_soon(slurm, timed.id, 45)
    assert timed.wait("FAILED")["ExitCode"] == "140:0"
    # The crash ends its chain: the successor that was queued before is taken back.
    crash.wait("FAILED")
    queued = crash.attempts[0].successor
    assert queued is not None
    wait_for_state(slurm, queued, "CANCELLED")
    second = timed.attempts[0].successor
    assert second is not None
    wait_for_state(slurm, second, "COMPLETED")
    assert timed.states == ["timeout", "finished"]
    assert timed.steps() == list(range(1, 251))
    last = timed.attempts[1].successor
    assert last is not None
    wait_until(lambda: job_state(slurm, last) == "CANCELLED", "the last successor to be dropped", timeout=60)
    assert slurm.run("squeue", "-h") == ""


def test_node_failure(slurm: MiniSlurm, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path / "own", "250 0.2", "-p gpuA", "--gres=gpu:a100:2")
    chained = Job(slurm, tmp_path / "chained", "60 0.2", "-p gpuA", "--gres=gpu:a100:2", "--no-requeue")
    for each in (job, chained):
        each.wait_for_step(3)
    first, second = (job_info(slurm, each.id)["NodeList"] for each in (job, chained))
    assert {first, second} == {"a1", "a2"}
    slurm.down(first)
    assert job.wait("COMPLETED")["Restarts"] == "1"
    assert job.states == ["lost", "finished"]
    assert (job.attempts[0].nodes, job.attempts[1].nodes) == (first, second)
    assert job.steps() == sorted(job.steps())
    assert chained.wait("COMPLETED")["Restarts"] == "0"
    slurm.up(first)
    other = Job(slurm, tmp_path / "other", "250 0.2", "-p gpuA", "--gres=gpu:a100:2", "--no-requeue")
    other.wait_for_step(3)
    slurm.down(other.attempts[0].nodes, announce=True)
    other.wait("NODE_FAIL")
    successor = other.attempts[0].successor
    assert successor is not None
    wait_for_state(slurm, successor, "COMPLETED")
    assert other.states == ["lost", "finished"]


def test_controller_away_while_the_work_ends(slurm: MiniSlurm, tmp_path: Path) -> None:
    quiet = Job(slurm, tmp_path / "quiet", "20 0.2")
    asked = Job(slurm, tmp_path / "asked", "250 0.2")
    for job in (quiet, asked):
        job.wait_for_step(3)
    slurm.stop_controller()
    (asked.run / "stop").touch()
    wait_until(lambda: "stopped by" in (asked.run / "log").read_text(), "the work to stop")
    time.sleep(8)
    slurm.start_controller()
    assert quiet.wait("COMPLETED")["Restarts"] == "0"
    assert asked.wait("COMPLETED")["Restarts"] == "1"
    assert quiet.states == ["finished"]
    assert asked.states[-1] == "finished"
    assert asked.steps() == list(range(1, 251))


def test_limits_end_a_chain(slurm: MiniSlurm, tmp_path: Path) -> None:
    own = Job(slurm, tmp_path / "own", "2000 0.1", begin="--max-restarts 1")
    chained = Job(slurm, tmp_path / "chained", "2000 0.1", "--no-requeue", begin="--max-restarts 1")
    walltime = Job(slurm, tmp_path / "walltime", "2000 0.1", begin="--max-walltime 00:00:03")
    jobs = (own, chained, walltime)
    for job in jobs:
        job.wait_for_step(3)
    wait_until(lambda: len(walltime.steps()) > 40, "4 s of work", slurm=slurm)
    slurm.run("scancel", "-s", "USR2", *(job.id for job in jobs))
    assert walltime.wait("FAILED")["ExitCode"] == "140:0"
    assert "max_walltime" in walltime.attempts[-1].message
    wait_until(lambda: len(own.attempts) == 2 and len(chained.attempts) == 2, "the second attempts", slurm=slurm)
    second = chained.attempts[1].job
    assert chained.attempts[1].successor is None
    before = len(own.steps())
    wait_until(lambda: len(own.steps()) > before + 10, "the second attempt to work", slurm=slurm)
    slurm.run("scancel", "-s", "USR2", own.id, second)
    assert own.wait("FAILED")["Restarts"] == "1"
    wait_for_state(slurm, second, "FAILED")
    for job in (own, chained):
        assert job.states[-1] in {"preempted", "timeout"}
        assert "all 1 restarts are used up" in job.attempts[-1].message
    assert slurm.run("squeue", "-h") == ""


def test_a_preempted_array_member_comes_back_alone(slurm: MiniSlurm, tmp_path: Path) -> None:
    run = tmp_path / "member$SLURM_ARRAY_TASK_ID"
    script = SCRIPT.format(
        options=f"#SBATCH --array=0-3%3\n#SBATCH -o {tmp_path}/log-%a",
        python=shlex.quote(sys.executable),
        run=run,
        begin="",
        before=":",
        work=WORK,
        words="30 0.1",
    )
    for number in range(4):
        (tmp_path / f"member{number}").mkdir()
    job = submit(slurm, script)
    one = tmp_path / "member1"
    wait_until(lambda: (one / "metrics.jsonl").exists(), "member 1 to work", slurm=slurm)
    slurm.run("scancel", "-s", "USR2", f"{job}_1")
    for number in range(4):
        wait_for_state(slurm, f"{job}_{number}", "COMPLETED")
    states = [[attempt.state for attempt in read_attempts(tmp_path / f"member{number}")] for number in range(4)]
    assert states == [["finished"], ["preempted", "finished"], ["finished"], ["finished"]]
    assert [attempt.restart for attempt in read_attempts(one)] == [0, 1]


def test_what_depends_on_a_job_waits_through_its_requeue(slurm: MiniSlurm, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path / "run", "250 0.2")
    crash = Job(slurm, tmp_path / "crash", "3 0.5 1")
    look = f"#!/bin/bash\nls {tmp_path}/run/summary.json\n"
    after = submit(slurm, look, f"--dependency=afterok:{job.id}", "--kill-on-invalid-dep=yes")
    never = submit(slurm, look, f"--dependency=afterok:{crash.id}", "--kill-on-invalid-dep=yes")
    job.wait_for_step(3)
    slurm.run("scancel", "-s", "USR2", job.id)
    assert job.wait("COMPLETED")["Restarts"] == "1"
    wait_for_state(slurm, after, "COMPLETED")
    wait_for_state(slurm, never, "CANCELLED")


def test_requeue_is_never_doubled_or_lost(slurm: MiniSlurm, tmp_path: Path) -> None:
    """The race of a requeue with the SIGTERM that it sends, many jobs at a time."""
    jobs = [Job(slurm, tmp_path / f"run{number}", "12 0.3", "--mem=10M") for number in range(8)]
    for job in jobs:
        job.wait_for_step(2)
    slurm.run("scancel", "-s", "USR2", *(job.id for job in jobs))
    for job in jobs:
        assert job.wait("COMPLETED")["Restarts"] == "1"
        assert job.states == ["preempted", "finished"]
        assert job.steps() == list(range(1, 13))


def test_controller_away_when_the_work_is_to_begin(slurm: MiniSlurm, tmp_path: Path) -> None:
    here, go = tmp_path / "here", tmp_path / "go"
    job = Job(slurm, tmp_path / "run", "5 0.1", before=f"touch {here}; until [ -e {go} ]; do sleep 0.1; done")
    wait_until(here.exists, "the script to start", slurm=slurm)
    slurm.stop_controller()
    go.touch()
    time.sleep(4)
    assert job.steps() == []
    slurm.start_controller()
    assert job.wait("COMPLETED")["Restarts"] == "0"
    assert job.states == ["finished"]
