"""`triage jobs`: rows from queue and run folders, without Slurm from the folders alone; logs and cancel by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

from triagekit.cli.main import main
from triagekit.cluster import slurm_commands
from triagekit.cluster.attempts.record import Attempt, write_attempts
from triagekit.cluster.job_folder import JobFolder
from triagekit.cluster.job_table import read_table


@pytest.fixture
def here(tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path / "slurm")
    fake.answers("scontrol", ("", "slurm_load_jobs error: Invalid job id specified\n", 1))
    fake.answers("sacct", ("", "Slurm accounting storage is disabled\n", 1))
    fake.answers("scancel", ("", "", 0))
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_commands.time, "sleep", lambda seconds: None)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return fake


def run(name, *, steps=40, step=None, loss=0.5, finished=False, job=None, attempts=(), rung="1xA100"):
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("adapter: {method: lora}\n")
    (folder / "plan.json").write_text(json.dumps({"steps": steps, "rung": rung}))
    if step is not None:
        lines = [{"step": n, "split": "train", "loss": loss + step - n} for n in range(1, step + 1)]
        lines.append({"step": step, "split": "val", "loss": 9.0})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99, "sp')
    if finished:
        (folder / "summary.json").write_text(json.dumps({"steps": step}))
    if job:
        card(folder, "1-train", job)
    if attempts:
        write_attempts(folder, attempts)
    return folder


def card(owner, name, job, members=(), rung="1xA100"):
    folder = owner / "jobs" / name
    folder.mkdir(parents=True)
    kind = name.partition("-")[2]
    JobFolder(folder).write({"job_id": job, "kind": kind, "rung": rung})
    if members:
        text = "".join(f"{number}\t{member}\t{owner / member}\n" for number, member in enumerate(members))
        (folder / "members.tsv").write_text(text)
    return folder


def attempt(job, state, **more):
    values = {"restart": 0, "chain": job, "nodes": "a1", "resume": "requeue", "started": 1000.0, "step_before": 0}
    return Attempt(f"{job}.{more.get('restart', 0)}", job, state=state, **{**values, **more})


def queue(fake, *jobs):
    lines = []
    for job_id, state, where, folder in jobs:
        reason = where.strip("()") if where.startswith("(") else "None"
        script = str((folder / "job.sbatch").absolute()) if folder else "/elsewhere/job.sh"
        base = job_id.partition("_")[0]
        lines.append(
            [base, job_id, state, reason, "gpuA", "1:00", "2:00", "1", where, "N/A", "me", "", ".", script, "n"]
        )
    fake.answers("squeue", ("".join("\x1f".join(line) + "\n" for line in lines), "", 0))


def rows(root="runs"):
    found, why = read_table(Path(root))
    return {row.run: row for row in found}, why


def test_a_running_job_has_step_loss_rate_and_time_left(here):
    started = time.time() - 100
    folder = run(
        "a",
        step=20,
        job="7",
        attempts=[
            attempt("7", "preempted", ended=5.0),
            attempt("7", "running", restart=1, started=started, step_before=10),
        ],
    )
    queue(here, ("7", "RUNNING", "a1", folder / "jobs/1-train"))
    os.utime(folder / "metrics.jsonl", (started + 50, started + 50))
    row = rows()[0]["a"]
    assert (row.job, row.state, row.node, row.rung, row.step, row.steps) == ("7", "running", "a1", "1xA100", 20, 40)
    assert (row.restarts, row.loss, row.reason) == (1, 0.5, None)
    # Ten steps in fifty seconds of this attempt; what was done before it took another time.
    assert row.rate == pytest.approx(0.2, rel=0.01) and row.eta == pytest.approx(100, rel=0.01)


def test_a_waiting_job_has_its_reason_and_no_node(here):
    folder = run("a", job="7")
    queue(here, ("7", "PENDING", "(Resources)", folder / "jobs/1-train"))
    row = rows()[0]["a"]
    assert (row.state, row.reason, row.node, row.step) == ("pending", "Resources", None, None)


def test_states_of_what_has_ended(here):
    run("done", step=40, finished=True, job="1", attempts=[attempt("1", "finished", ended=2000.0)])
    run("bad", job="2", attempts=[attempt("2", "failed", ended=2.0, code=2, message="user error: see the lines above")])
    run("lost", job="3", attempts=[attempt("3", "running")])
    run("own", step=3)
    found, why = rows()
    assert why is None
    assert {name: row.state for name, row in found.items()} == {
        "done": "finished", "bad": "failed", "lost": "stopped", "own": "stopped",
    }  # fmt: skip
    assert found["bad"].reason == "user error: see triage jobs logs bad"
    assert found["done"].rate == pytest.approx(0.04)
    assert found["own"].job is None


def test_slurms_own_word_on_a_job_that_could_not_say_how_it_ended(here):
    run("lost", job="3", attempts=[attempt("3", "running")])
    here.answers("scontrol", ("JobId=3 JobState=NODE_FAIL ExitCode=0:0 Restarts=0\n", "", 0))
    row = rows()[0]["lost"]
    assert row.state == "node_fail" and "submit it again" in row.reason


def test_a_successor_is_the_runs_job(here):
    folder = run(
        "a", step=4, job="7", attempts=[attempt("7", "timeout", ended=2.0, successor="9", message="time limit")]
    )
    queue(here, ("9", "PENDING", "(Dependency)", folder / "jobs/1-train"))
    row = rows()[0]["a"]
    assert (row.job, row.state) == ("9", "pending")


def test_members_of_an_array_are_rows_of_their_own(here):
    owner = Path("runs/s")
    folder = card(owner, "1-sweep", "12", ["x", "y", "z"])
    run("s/x", step=40, finished=True)
    run("s/y", step=10)
    queue(here, ("12_1", "RUNNING", "a2", folder), ("12_[2%1]", "PENDING", "(JobArrayTaskLimit)", folder))
    found, _ = rows()
    assert [(found[name].job, found[name].state) for name in ("s/x", "s/y", "s/z")] == [
        ("12_0", "finished"), ("12_1", "running"), ("12_2", "pending"),
    ]  # fmt: skip
    assert found["s/y"].node == "a2" and found["s/z"].reason == "JobArrayTaskLimit"


def test_the_table_is_the_same_from_any_folder(here, tmp_path, monkeypatch):
    card(Path("runs/s"), "1-sweep", "12", ["x", "y"])
    run("s/x", step=40, finished=True)
    root = Path("runs").absolute()
    before = rows(root)[0]
    monkeypatch.chdir(tmp_path)
    assert set(before) == {"s/x", "s/y"} and rows(root)[0] == before


def test_jobs_that_are_no_runs_and_folders_elsewhere_are_shown(here, tmp_path):
    card(Path("runs/p"), "1-prepare", "3", rung=None)
    scores = card(tmp_path / "scores" / "a", "1-score", "5", rung=None)
    queue(here, ("3", "RUNNING", "c1", Path("runs/p/jobs/1-prepare")), ("5", "RUNNING", "a[1-2]", scores))
    found, _ = rows()
    assert (found["p"].kind, found["p"].state) == ("prepare", "running")
    (score,) = [row for row in found.values() if row.kind == "score"]
    assert score.run.endswith("scores/a") and score.node == "a[1-2]"


def test_without_all_only_the_newest_of_each_stage_and_none_that_went_well(here, capsys):
    owner = Path("runs/p")
    card(owner, "1-prepare", "3")
    card(owner, "2-compare", "4")
    card(owner, "3-compare", "5")
    run("a", step=40, finished=True)
    states = {"3": "COMPLETED", "4": "FAILED", "5": "CANCELLED"}
    here.answers("scontrol", *((f"JobId={n} JobState={state} ExitCode=0:0\n", "", 0) for n, state in states.items()))
    assert main(["jobs", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["jobs"]
    assert [(row["job"], row["state"]) for row in shown] == [("5", "cancelled"), (None, "finished")]
    here.answers("scontrol", *((f"JobId={n} JobState={state} ExitCode=0:0\n", "", 0) for n, state in states.items()))
    assert main(["jobs", "--json", "--all"]) == 0
    assert [row["job"] for row in json.loads(capsys.readouterr().out)["jobs"]] == ["3", "4", "5", None]


def test_a_damaged_file_of_one_run_does_not_hide_the_others(here):
    folder = run("a", step=4, job="1")
    (folder / "plan.json").write_text("{")
    (folder / "jobs" / "attempts.jsonl").write_text("nonsense\n")
    run("b", step=4)
    found, _ = rows()
    assert set(found) == {"a", "b"} and found["a"].step == 4


def test_without_slurm_the_run_folders_speak(here, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    run("a", step=40, finished=True, job="1")
    assert main(["jobs"]) == 0
    out = capsys.readouterr()
    assert "finished" in out.out and "40/40" in out.out and "no squeue on this machine" in out.err
    assert main(["jobs", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert "no squeue" in table["slurm"] and table["jobs"][0]["step"] == 40
    assert main(["jobs", "--watch"]) == 0, "nothing waits or runs, so there is nothing to watch"
    assert main(["jobs", "cancel", "a"]) == 2
    assert "not on this machine" in capsys.readouterr().err


def test_slurm_that_does_not_answer_is_named(here, capsys):
    here.answers("squeue", ("", "slurm_load_jobs error: Unable to contact slurm controller\n", 1))
    run("a", step=4)
    assert main(["jobs"]) == 0
    assert "Slurm gave no answer" in capsys.readouterr().err


def test_no_folder_says_what_to_do(here, capsys):
    assert main(["jobs"]) == 2
    assert "triage submit" in capsys.readouterr().err


def test_logs_by_run_by_member_and_by_number(here, capsys):
    folder = run("a", job="7")
    (folder / "jobs/1-train/7.log").write_text("first\nsecond\n")
    array = card(Path("runs/s"), "1-sweep", "12", ["x", "y"])
    run("s/x")
    run("s/y")
    (array / "12_0.log").write_text("of x\n")
    (array / "12_1.log").write_text("of y\n")
    for target, text in (
        ("a", "first\nsecond\n"),
        ("7", "first\nsecond\n"),
        ("runs/s/y", "of y\n"),
        ("12_0", "of x\n"),
    ):
        assert main(["jobs", "logs", target]) == 0
        assert capsys.readouterr().out == text
    assert main(["jobs", "logs", "12", "--follow"]) == 0
    assert "12_0.log <==" in (out := capsys.readouterr().out) and "of x" in out and "of y" in out


def test_a_wrong_name_gives_the_nearest(here, capsys):
    run("lora-seed1", job="7")
    assert main(["jobs", "logs", "lora-sed1"]) == 2
    assert "Did you mean 'lora-seed1'?" in capsys.readouterr().err
    assert main(["jobs", "logs", "lora-seed1"]) == 2
    assert "no log yet" in capsys.readouterr().err


def test_follow_prints_what_is_added_until_the_job_has_ended(here):
    folder = run("a", job="7")
    log = folder / "jobs/1-train/7.log"
    log.write_text("one\n")
    queue(here, ("7", "RUNNING", "a1", folder / "jobs/1-train"))
    child = subprocess.Popen(
        [sys.executable, "-m", "triagekit", "jobs", "logs", "a", "--follow"], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "one\n"
    with log.open("a") as handle:
        handle.write("two\n")
    assert child.stdout.readline() == "two\n"
    with log.open("a") as handle:
        handle.write("last\n")
    here.answers("squeue", ("", "", 0))
    assert child.stdout.read() == "last\n"
    assert child.wait() == 0


def test_cancel_takes_the_jobs_of_a_run_a_member_and_a_whole_sweep(here, capsys):
    folder = run("a", job="7", attempts=[attempt("7", "running", successor="9")])
    array = card(Path("runs/s"), "1-sweep", "12", ["x", "y"])
    run("s/x")
    run("s/y")
    queue(
        here,
        ("7", "RUNNING", "a1", folder / "jobs/1-train"),
        ("9", "PENDING", "(Dependency)", folder / "jobs/1-train"),
        ("12_0", "RUNNING", "a2", array),
        ("12_[1]", "PENDING", "(Resources)", array),
        ("30", "RUNNING", "a2", None),
    )
    for targets, cancelled in (
        (["a"], {"7", "9"}),
        (["runs/s/y"], {"12_1"}),
        (["s"], {"12_0", "12_1"}),
        (["12", "30"], {"12", "30"}),
    ):
        assert main(["jobs", "cancel", *targets]) == 0
        assert set(here.calls("scancel")[-1]) == cancelled
    before = len(here.calls("scancel"))
    assert main(["jobs", "cancel", "30", "31"]) == 2
    assert len(here.calls("scancel")) == before, "all or none"
    assert "31 is not in your queue" in capsys.readouterr().err
