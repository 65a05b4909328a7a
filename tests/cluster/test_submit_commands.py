"""Slurm's commands: what they print is read right, refusals come with a fix, a restarting controller is waited for."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, refused, starts

from triagekit.cluster import slurm_commands
from triagekit.cluster.slurm_commands import clean_environment
from triagekit.cluster.slurm_errors import SlurmError
from triagekit.cluster.slurm_output import (
    parse_key_values,
    parse_sacct,
    parse_sinfo,
    parse_squeue,
    parse_start_estimate,
)
from triagekit.errors import TriageError

AWAY = "Unable to contact slurm controller (connect failure)"
LOST = "Socket timed out on send/recv operation"

# Slurm 22.05, as printed.
SHOW_JOB = (
    "JobId=1 JobName=a b UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901759 Nice=0 Account=(null) "
    "QOS=(null) JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:0 "
    "RunTime=00:00:02 TimeLimit=1-00:00:00 TimeMin=N/A StartTime=2026-11-21T06:48:15 Partition=cpu "
    "AllocNode:Sid=localhost:25414 NodeList=c1 CPUs/Task=1 ReqB:S:C:T=0:0:*:* TRES=cpu=1,mem=500M,node=1,billing=1 "
    "Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=* Command=/tmp/my dir/q.sh WorkDir=/tmp/my dir "
    "StdErr=/tmp/my dir/x=1 y.log StdIn=/dev/null StdOut=/tmp/my dir/x=1 y.log Power="
)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    commands = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{commands.folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_commands.time, "sleep", lambda seconds: None)
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "RANK"):
        monkeypatch.delenv(name, raising=False)
    return commands


def test_values_with_blanks_and_equal_signs_of_show_job():
    job = parse_key_values(SHOW_JOB)
    assert job["JobName"] == "a b" and job["Restarts"] == "2" and job["Command"] == "/tmp/my dir/q.sh"
    assert job["StdOut"] == "/tmp/my dir/x=1 y.log" and job["TRES"] == "cpu=1,mem=500M,node=1,billing=1"
    assert job["ReqB:S:C:T"] == "0:0:*:*" and job["Power"] == ""


def test_lines_of_squeue_whatever_names_hold():
    line = "\x1f".join(
        ["11", "11_[4-9%2]", "PENDING", "JobArrayTaskLimit", "gpuA", "0:00", "30:00", "1", "(JobArrayTaskLimit)", "N/A",
         "me", "afterok:3", "/w d", "/w d/job.sbatch", "a|b c"]
    )  # fmt: skip
    (job,) = parse_squeue(line + "\n\n")
    assert (job.array_job_id, job.job_id, job.state, job.name) == ("11", "11_[4-9%2]", "PENDING", "a|b c")
    assert (job.command, job.dependency) == ("/w d/job.sbatch", "afterok:3")


def test_lines_of_sinfo():
    text = "\x1f".join(["cpu*", "up", "1-00:00:00", "2", "idle", "(null)", "avx", "8", "8000+"]) + "\n"
    (partition,) = parse_sinfo(text)
    assert (partition.name, partition.default, partition.nodes, partition.memory_mb) == ("cpu", True, 2, "8000+")


@pytest.mark.parametrize(
    ("text", "state", "code", "signal"),
    [
        ("12|COMPLETED|0:0\n", "COMPLETED", 0, 0),
        ("12|CANCELLED by 1000|0:15\n", "CANCELLED", 0, 15),
        ("12|FAILED|1:0\n12|PREEMPTED|0:0\n", "PREEMPTED", 0, 0),
    ],
)
def test_lines_of_sacct(text, state, code, signal):
    found = parse_sacct(text)
    assert (found.state, found.exit_code, found.signal) == (state, code, signal)
    assert parse_sacct("") is None


def test_start_estimates_of_several_versions():
    at = datetime(2026, 11, 21, 6, 50)
    for text in (
        "sbatch: Job 8 to start at 2026-11-21T06:50:00 using 1 processors on nodes a1 in partition gpuA",
        "sbatch: Job 8 to start at 2026-11-21T06:50:00 a using 2 processors on nodes a[1-2] in partition gpuA",
        "sbatch: Job 8 to start at 2026-11-21T06:50:00 using 1 processors on a1",
    ):
        assert parse_start_estimate(text).start == at, text
    assert parse_start_estimate("sbatch: something else").start is None
    assert parse_start_estimate("sbatch: Job 8 to start at N/A").start is None


def test_submitting_gives_the_id_also_on_several_clusters(fake):
    fake.answers("sbatch", ("12\n", "", 0), ("13;west\n", "sbatch: a word of the site\n", 0))
    assert slurm_commands.sbatch(Path("a b/job.sbatch"), "--dependency=afterok:3") == "12"
    assert slurm_commands.sbatch(Path("job.sbatch"), directory=Path("/")) == "13"
    first, second = fake.calls("sbatch")
    assert first == ["--parsable", "--dependency=afterok:3", str(Path("a b/job.sbatch").absolute())]
    assert "--chdir=/" in second


def test_a_restarting_controller_is_waited_for(fake):
    fake.answers("sbatch", refused(AWAY), refused(AWAY), ("12\n", "", 0))
    assert slurm_commands.sbatch(Path("job.sbatch")) == "12"
    assert len(fake.calls("sbatch")) == 3


def test_patience_ends_and_says_so(fake):
    fake.answers("scontrol", refused(AWAY))
    with pytest.raises(SlurmError, match=r"(?s)connect failure.*did not answer.*Nothing was submitted"):
        slurm_commands.run_slurm("scontrol", "ping", patience=0.5)


def queue_line(job_id, command):
    cells = [
        job_id,
        job_id,
        "PENDING",
        "None",
        "cpu",
        "0:00",
        "1:00",
        "1",
        "",
        "N/A",
        "me",
        "(null)",
        "/w",
        command,
        "x",
    ]
    return "\x1f".join(cells) + "\n"


def test_a_submission_without_an_answer_is_never_sent_twice_blindly(fake, tmp_path):
    script = tmp_path / "job.sbatch"
    fake.answers("sbatch", refused(LOST), ("99\n", "", 0))
    fake.answers("squeue", (queue_line("41", "/other") + queue_line("42", str(script)), "", 0))
    assert slurm_commands.sbatch(script) == "42"
    assert len(fake.calls("sbatch")) == 1


def test_a_lost_submission_that_is_not_in_the_queue_is_sent_again(fake, tmp_path):
    fake.answers("sbatch", refused(LOST), ("99\n", "", 0))
    assert slurm_commands.sbatch(tmp_path / "job.sbatch") == "99"


def test_the_own_job_is_not_taken_for_the_lost_one(fake, tmp_path, monkeypatch):
    script = tmp_path / "job.sbatch"
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    fake.answers("sbatch", refused(LOST), ("99\n", "", 0))
    fake.answers("squeue", (queue_line("42", str(script)), "", 0))
    assert slurm_commands.sbatch(script) == "99"


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ("Batch job submission failed: Invalid account or account/partition combination specified", "site.account="),
        ("Batch job submission failed: Invalid qos specification", "`qos`"),
        ("Batch job submission failed: Requested node configuration is not available", "sinfo -o"),
        ("Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)", "%l"),
        ("Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size)", "limit"),
        ("allocation failure: Required partition not available (inactive or drain)", "drained"),
        ("Batch job submission failed: User's group not permitted to use this partition", "may not use"),
        ("fatal: Could not establish a configuration source", "SLURM_CONF"),
    ],
)
def test_refusals_keep_slurms_words_and_say_what_to_do(fake, message, fix):
    fake.answers("sbatch", refused(message))
    with pytest.raises(SlurmError) as caught:
        slurm_commands.sbatch(Path("job.sbatch"))
    assert message in str(caught.value) and fix in str(caught.value)
    assert len(fake.calls("sbatch")) == 1, "a refusal is not tried again"


def test_a_wrong_partition_names_the_nearest_one(fake):
    fake.answers("sbatch", refused("invalid partition specified: gpua\nsbatch: error: Batch job submission failed"))
    with pytest.raises(SlurmError, match=r"Did you mean 'gpuA'\?"):
        slurm_commands.sbatch(Path("job.sbatch"))


def test_without_slurm_a_person_is_told_where_to_go(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TriageError, match="login node"):
        slurm_commands.squeue()


def test_jobs_that_are_gone_are_left_out(fake):
    fake.answers("scontrol", refused("slurm_load_jobs error: Invalid job id specified"))
    assert slurm_commands.squeue(["7"]) == [] and "--jobs=7,7" in fake.calls("squeue")[0]
    assert slurm_commands.squeue([]) == [] and len(fake.calls("squeue")) == 1
    assert slurm_commands.scontrol_show_job("7") is None


def test_state_of_a_job_that_the_controller_forgot_comes_from_accounting(fake):
    fake.answers("scontrol", refused("slurm_load_jobs error: Invalid job id specified"))
    fake.answers("sacct", ("7|TIMEOUT|0:0\n", "", 0))
    state = slurm_commands.sacct_state("7")
    assert state.state == "TIMEOUT" and state.is_final and state.restarts is None
    fake.answers("sacct", ("", "Slurm accounting storage is disabled\n", 1))
    assert slurm_commands.sacct_state("7") is None
    fake.answers("scontrol", (SHOW_JOB + "\n", "", 0))
    state = slurm_commands.sacct_state("1")
    assert state.state == "RUNNING" and not state.is_final and state.restarts == 2


def test_asking_without_submitting(fake):
    fake.answers("sbatch", starts("2026-11-21T06:50:00"), refused("Requested node configuration is not available"))
    estimate = slurm_commands.test_only("#!/bin/bash\necho it's\n", "--mem=1G")
    assert estimate.start == datetime(2026, 11, 21, 6, 50) and estimate.partition == "gpuA" and not estimate.refused
    refusal = slurm_commands.test_only("#!/bin/bash\n")
    assert refusal.start is None and refusal.refused and "configuration is not available" in refusal.message
    assert fake.calls("sbatch")[0] == ["--test-only", "--mem=1G"]
    assert fake.inputs("sbatch")[0] == "#!/bin/bash\necho it's\n"


def test_a_job_that_submits_a_job_does_not_hand_its_own_request_down(fake, monkeypatch):
    inside = {
        "SLURM_JOB_ID": "7",
        "SLURM_MEM_PER_NODE": "1",
        "SLURM_CONF": "/c",
        "RANK": "0",
        "CUDA_VISIBLE_DEVICES": "0",
    }
    assert clean_environment({**inside, "HOME": "/h"}) == {"SLURM_CONF": "/c", "HOME": "/h"}
    outside = {"SLURM_CLUSTERS": "west", "CUDA_VISIBLE_DEVICES": "1"}
    assert clean_environment(outside) == outside
    for name, value in inside.items():
        monkeypatch.setenv(name, value)
    fake.answers("sbatch", ("12\n", "", 0))
    slurm_commands.sbatch(Path("job.sbatch"))
    assert fake.environments("sbatch") == [{"SLURM_CONF": "/c"}]
