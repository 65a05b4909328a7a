"""How attempts are judged, counted and written, without a Slurm."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from triagekit.cluster import attempt as commands
from triagekit.cluster.attempts import own_job
from triagekit.cluster.attempts.limits import why_no_more
from triagekit.cluster.attempts.outcome import close_open_attempts, judge
from triagekit.cluster.attempts.own_job import OwnJob
from triagekit.cluster.attempts.record import Attempt, attempts_path, newest_step, read_attempts, write_attempts
from triagekit.cluster.slurm_errors import SlurmError
from triagekit.errors import TriageError
from triagekit.training.checkpoints import MARKER, write_checkpoint

FIRST = Attempt("7.0", "7", 0, "7", "a1", "requeue", "running", started=1000.0, step_before=0)
JOB = OwnJob("7", 0, "a1", None)
SOON = (datetime.now() + timedelta(minutes=2)).isoformat(timespec="seconds")
RUNNING = {"JobState": "RUNNING", "Reason": "None", "Restarts": "0", "PreemptTime": "None", "EndTime": SOON}
USR2, TERM = 140, 143


class FakeSlurm:
    """What Slurm says of jobs, and what it was asked to do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: dict[str, dict[str, str]] = {"7": dict(RUNNING)}
        self.asked: list[tuple[str, ...]] = []
        monkeypatch.setattr(own_job, "scontrol_show_job", lambda job, patience: self.jobs.get(job))
        monkeypatch.setattr(own_job, "requeue", lambda job, patience: self.asked.append(("requeue", job)))
        monkeypatch.setattr(own_job, "scancel", lambda job, patience: self.asked.append(("scancel", job)))
        monkeypatch.setattr(own_job, "squeue", list)
        monkeypatch.setattr(own_job, "sbatch", self._sbatch)

    def _sbatch(self, script: Path, *options: str) -> str:
        self.asked.append(("sbatch", str(script), *options))
        return "8"


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def environment(job: str = "7", restart: int = 0, **more: str) -> dict[str, str]:
    return {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restart), "SLURM_JOB_NODELIST": "a1", **more}


@pytest.mark.parametrize(
    ("code", "finished", "says", "state", "goes_on"),
    [
        (0, True, {}, "finished", False),
        (0, False, {}, "failed", False),
        (USR2, True, {}, "finished", False),
        (1, True, {}, "failed", False),
        (1, False, {}, "failed", False),
        (2, False, {"JobState": "COMPLETING", "Reason": "TimeLimit"}, "failed", False),
        (137, False, {}, "failed", False),
        (USR2, False, {}, "timeout", True),
        (USR2, False, {"EndTime": "2999-01-01T00:00:00"}, "preempted", True),
        (USR2, False, {"EndTime": "Unknown"}, "preempted", True),
        (USR2, False, {"PreemptTime": "2026-01-01T00:00:00"}, "preempted", True),
        (TERM, False, {"EndTime": "Unknown"}, "preempted", True),
        (130, False, {"EndTime": "Unknown"}, "preempted", True),
        (TERM, False, {"JobState": "COMPLETING", "Reason": "TimeLimit"}, "timeout", True),
        (137, False, {"JobState": "COMPLETING", "Reason": "TimeLimit"}, "timeout", True),
        (TERM, False, {"JobState": "COMPLETING"}, "cancelled", False),
        (TERM, False, {"JobState": "CANCELLED"}, "cancelled", False),
        (TERM, False, {"JobState": "COMPLETING", "Restarts": "1"}, "preempted", True),
        (1, False, {"JobState": "PENDING", "Restarts": "1"}, "preempted", True),
    ],
)
def test_judgement(
    slurm: FakeSlurm, code: int, finished: bool, says: dict[str, str], state: str, goes_on: bool
) -> None:
    slurm.jobs["7"].update(says)
    outcome = judge(code, finished, JOB)
    assert (outcome.state, outcome.goes_on) == (state, goes_on)
    assert (outcome.code == 0) == (state == "finished")
    assert outcome.requeued_by_slurm == (says.get("Restarts") == "1")


def test_nobody_comes_back_when_slurm_is_silent(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(job: str, patience: float) -> None:
        raise SlurmError(["scontrol"], 1, "Unable to contact slurm controller")

    monkeypatch.setattr(own_job, "scontrol_show_job", away)
    outcome = judge(USR2, False, JOB)
    assert (outcome.state, outcome.goes_on, outcome.code) == ("preempted", False, USR2)
    assert "Unable to contact" in outcome.message


def test_a_stop_is_written_before_slurm_is_asked_to_requeue(
    slurm: FakeSlurm, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert commands.begin(run, environment()) == 0
    write_checkpoint(run / "checkpoints", 5, lambda folder: None)
    seen = []
    monkeypatch.setattr(own_job, "requeue", lambda job, patience: seen.append(read_attempts(run)[-1].state))
    assert commands.end(run, USR2, environment()) == USR2
    assert seen == ["timeout"]
    closed = read_attempts(run)[0]
    assert (closed.code, closed.step_before, closed.step_after) == (USR2, 0, 5)
    assert commands.begin(run, environment(restart=1)) == 0
    assert read_attempts(run)[1].step_before == 5


def test_a_job_cancelled_at_the_last_moment_is_not_requeued(
    slurm: FakeSlurm, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.begin(run, environment())
    answers = [RUNNING, {**RUNNING, "JobState": "COMPLETING"}]
    monkeypatch.setattr(own_job, "scontrol_show_job", lambda job, patience: answers.pop(0))
    assert commands.end(run, USR2, environment()) == USR2
    assert slurm.asked == []
    assert read_attempts(run)[0].state == "cancelled"


def test_requeue_of_an_unanswered_request_is_not_repeated(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    def granted_without_answer(job: str, patience: float) -> None:
        slurm.asked.append(("requeue", job))
        slurm.jobs["7"].update(JobState="COMPLETING", Restarts="1")
        raise SlurmError(["scontrol"], 1, "Socket timed out")

    monkeypatch.setattr(own_job, "requeue", granted_without_answer)
    monkeypatch.setattr(own_job.time, "sleep", lambda seconds: None)
    assert JOB.requeue()
    assert slurm.asked == [("requeue", "7")]


def test_successor_is_queued_before_the_work_and_dropped_after_a_crash(slurm: FakeSlurm, run: Path) -> None:
    script = run / "job.sbatch"
    assert commands.begin(run, environment(SLURM_ARRAY_TASK_ID="3"), script) == 0
    assert slurm.asked == [
        (
            "sbatch",
            str(script),
            "--dependency=afternotok:7",
            "--kill-on-invalid-dep=yes",
            "--export=ALL,TRIAGEKIT_CHAIN=7",
            "--array=3",
        )
    ]
    assert commands.end(run, 1, environment()) == 1
    assert slurm.asked[1:] == [("scancel", "8")]
    with pytest.raises(TriageError, match="Job 7 failed"):
        commands.begin(run, environment("8", TRIAGEKIT_CHAIN="7"), script)


def test_successor_of_a_cancelled_job_does_nothing(slurm: FakeSlurm, run: Path) -> None:
    script = run / "job.sbatch"
    commands.begin(run, environment(), script)
    slurm.jobs["7"]["JobState"] = "CANCELLED"
    assert commands.begin(run, environment("8", TRIAGEKIT_CHAIN="7"), script) == commands.NOTHING_TO_DO
    assert [attempt.state for attempt in read_attempts(run)] == ["cancelled"]


def test_a_finished_run_has_nothing_to_do(slurm: FakeSlurm, run: Path) -> None:
    (run / "summary.json").write_text("{}")
    assert commands.begin(run, environment(), run / "job.sbatch") == commands.NOTHING_TO_DO
    assert slurm.asked == []


def test_attempts_that_could_not_say_how_they_ended(slurm: FakeSlurm, run: Path) -> None:
    assert close_open_attempts(run, [FIRST], dataclasses.replace(JOB, restart=1))[0].state == "lost"
    (run / "stopped.json").write_text(json.dumps({"signal": "SIGTERM", "attempt": "7.0"}))
    assert close_open_attempts(run, [FIRST], dataclasses.replace(JOB, restart=1))[0].state == "preempted"
    (run / "stopped.json").unlink()
    slurm.jobs["7"]["JobState"] = "TIMEOUT"
    assert close_open_attempts(run, [FIRST], OwnJob("8", 0, "a1", None))[0].state == "timeout"


def ended(number: int, state: str, seconds: float = 60.0, progress: int = 1) -> Attempt:
    return dataclasses.replace(
        FIRST, name=f"7.{number}", restart=number, state=state, ended=1000.0 + seconds, step_after=progress
    )


def test_limits() -> None:
    chain = [ended(number, "timeout") for number in range(4)]
    assert why_no_more(chain, None, None) is None
    assert why_no_more(chain, 4, 241.0) is None
    assert "max_restarts" in str(why_no_more(chain, 3, None))
    assert "max_walltime" in str(why_no_more(chain, None, 240.0))
    stuck = [ended(number, "timeout", progress=0) for number in range(3)]
    assert "no checkpoint" not in str(why_no_more(stuck[:2], None, None))
    assert "made no checkpoint" in str(why_no_more(stuck, None, None))
    # Whoever is preempted again and again is unlucky, not stuck.
    assert why_no_more([ended(number, "preempted", progress=0) for number in range(9)], None, None) is None


def test_used_up_restarts_end_with_the_works_own_code(slurm: FakeSlurm, run: Path) -> None:
    write_attempts(run, [ended(0, "preempted")])
    assert commands.begin(run, environment(restart=1), max_restarts=1) == 0
    assert commands.end(run, USR2, environment(restart=1)) == USR2
    assert slurm.asked == []
    assert "restarts are used up" in read_attempts(run)[-1].message
    with pytest.raises(TriageError, match="submit it anew"):
        commands.begin(run, environment(restart=2), max_restarts=1)
    # A new submission starts a new count.
    assert commands.begin(run, environment("20"), max_restarts=1) == 0


def test_newest_step_counts_completed_checkpoints_only(run: Path) -> None:
    assert newest_step(run) == 0
    write_checkpoint(run / "checkpoints", 9, lambda folder: None)
    write_checkpoint(run / "checkpoints", 12, lambda folder: None)
    (run / "checkpoints" / "checkpoint-12" / MARKER).unlink()
    assert newest_step(run) == 9


def test_damaged_record_is_named(run: Path) -> None:
    attempts_path(run).parent.mkdir()
    attempts_path(run).write_text('{"name": "7.0"}\n')
    with pytest.raises(TriageError, match=r"attempts\.jsonl is damaged"):
        read_attempts(run)


def test_command_line_is_light_and_speaks_outside_of_slurm(run: Path) -> None:
    code = (
        "import sys\nfrom triagekit.cluster.attempt import main\nstatus = main(sys.argv[1:])\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'transformers', 'yaml'} & set(sys.modules)\n"
        "print(heavy or 'light')\nsys.exit(status)\n"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    result = subprocess.run(
        [sys.executable, "-c", code, "begin", "--run", str(run)], env=plain, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "This is not a Slurm job" in result.stderr
    assert result.stdout.strip() == "light"


def test_wrong_words_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["begin", "--run", str(run), "--successor"], ["begin", "--run", str(run), "--max-walltime", "soon"]):
        with pytest.raises(SystemExit) as raised:
            commands.main(words)
        assert raised.value.code == 2
    assert "--script" in capsys.readouterr().err
