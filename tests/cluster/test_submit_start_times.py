"""Which rung is taken: by Slurm's start times and a policy, by the order where Slurm says nothing."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from fake_slurm import FakeSlurm, refused, starts

from triagekit.cluster import slurm_commands
from triagekit.cluster.sbatch_script import SbatchScript
from triagekit.cluster.slurm_output import parse_sinfo
from triagekit.cluster.start_times import (
    Candidate,
    RungStart,
    ask_start_times,
    choose,
    closed_partitions,
)
from triagekit.errors import ProblemsError

HOUR = 3600.0


def answers(*waits):
    """Rungs big, middle, small with these waits in hours; None: no answer; a text: refused."""
    rows = []
    for name, wait in zip(("big", "middle", "small"), waits, strict=False):
        if isinstance(wait, str):
            rows.append(RungStart(name, "gpu", refused=wait))
        else:
            rows.append(RungStart(name, "gpu", wait=None if wait is None else wait * HOUR))
    return rows


def chosen(rows):
    (name,) = [row.rung for row in rows if row.chosen]
    return name


@pytest.mark.parametrize(
    ("policy", "waits", "expected"),
    [
        ("best", (90, 0, 0), "big"),
        ("best", ("down", 9, 0), "middle"),
        ("best", (None, 0, 0), "big"),
        ("soonest", (90, 2, 1), "small"),
        ("soonest", (1.01, 1, 1), "big"),
        ("soonest", (None, 2, 1), "small"),
        ("best-within", (3.9, 0, 0), "big"),
        ("best-within", (4.1, 1, 0), "middle"),
        ("best-within", (90, 50, 7), "small"),
        ("best-within", (90, 7, 7), "middle"),
        ("best-within", (None, 1, 0), "middle"),
        ("best-within", (None, None, None), "big"),
        ("soonest", (None, None, None), "big"),
        ("soonest", ("down", None, None), "middle"),
    ],
)
def test_policies(policy, waits, expected):
    rows = choose(answers(*waits), policy, 4 * HOUR)
    assert chosen(rows) == expected
    assert [row.rung for row in rows] == ["big", "middle", "small"], "the table keeps the ladder's order"
    assert all(bool(row.why_not) != row.chosen for row in rows)


def test_why_not_says_what_a_person_wants_to_know():
    rows = choose(answers(72, "partition gpuA is down", 1), "best-within", 4 * HOUR)
    assert [row.why_not for row in rows] == [
        "starts in 3 d, later than the 4 h it is worth waiting for",
        "partition gpuA is down",
        "",
    ]
    rows = choose(answers(3, 0, 0), "best-within", 4 * HOUR)
    assert rows[1].why_not == "big is better and starts within 4 h"
    assert choose(answers(3, 0, 0), "soonest", 0)[0].why_not == "starts in 3 h, middle sooner"


def test_nothing_to_be_had_gives_every_reason():
    with pytest.raises(ProblemsError) as caught:
        choose(answers("partition gpuA is down", "Slurm: Invalid account", "needs 9 GiB"), "best", HOUR)
    assert [problem.message for problem in caught.value.problems] == [
        "partition gpuA is down", "Slurm: Invalid account", "needs 9 GiB",
    ]  # fmt: skip


def sinfo_line(name, available, states):
    return "\x1f".join([name, available, "infinite", "2", states, "(null)", "x", "8", "8000"])


@pytest.mark.parametrize(
    ("lines", "closed"),
    [
        ([("gpu", "up", "idle")], None),
        ([("gpu", "down", "idle")], "partition gpu is down"),
        ([("gpu", "drain", "idle")], "partition gpu is drain"),
        ([("gpu", "up", "drained"), ("gpu", "up", "down*")], "no node of partition gpu is working (down*, drained)"),
        ([("gpu", "up", "drained"), ("gpu", "up", "mixed")], None),
        ([("gpu", "up", "allocated")], None),
        ([("gpu", "up", "planned")], None),
        ([("gpu", "up", "idle~")], None),
    ],
)
def test_partitions_where_nothing_starts(lines, closed):
    found = closed_partitions(parse_sinfo("\n".join(sinfo_line(*line) for line in lines)))
    assert found.get("gpu") == closed


@pytest.fixture
def fake(tmp_path, monkeypatch):
    commands = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{commands.folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_commands.time, "sleep", lambda seconds: None)
    return commands


def candidates():
    script = SbatchScript({"partition": "gpuA", "output": "no such/%j.log", "chdir": "/nowhere", "mem": "1G"}, ["true"])
    return [
        Candidate("big", "gpuA", script),
        Candidate("middle", "gpuL", script),
        Candidate("small", "cpu", None, "too small"),
    ]


def test_slurm_is_asked_for_what_fits_and_is_open(fake):
    later = (datetime.now() + timedelta(hours=5)).replace(microsecond=0)
    fake.answers("sbatch", starts(later.isoformat()), refused("Batch job submission failed: Invalid account"))
    notes = []
    big, middle, small = ask_start_times(candidates(), notes.append)
    assert big.start == later and abs(big.wait - 5 * HOUR) < 60
    assert middle.refused == "Slurm: Batch job submission failed: Invalid account" and small.refused == "too small"
    assert len(fake.calls("sbatch")) == 2 and not notes
    asked = fake.inputs("sbatch")[0]
    assert "--mem=1G" in asked and "--output" not in asked and "--chdir" not in asked


def test_a_partition_that_is_down_is_not_even_asked(fake):
    """Slurm would give a start time for it."""
    fake.partitions("gpuA|down", "gpuL|up")
    fake.answers("sbatch", starts("2020-01-01T00:00:00", "gpuL"))
    big, middle, _ = ask_start_times(candidates(), print)
    assert big.refused == "partition gpuA is down" and middle.wait == 0.0
    assert len(fake.calls("sbatch")) == 1


def test_several_partitions_are_closed_only_together(fake):
    fake.partitions("gpuA|down", "gpuL|up")
    fake.answers("sbatch", starts("2020-01-01T00:00:00", "gpuL"))
    script = candidates()[0].script
    (answer,) = ask_start_times([Candidate("big", "gpuA,gpuL", script)], print)
    assert answer.wait == 0.0 and answer.partition == "gpuL"
    fake.partitions("gpuA|down", "gpuL|drain")
    (answer,) = ask_start_times([Candidate("big", "gpuA,gpuL", script)], print)
    assert answer.refused == "partition gpuA is down; partition gpuL is drain"


def test_no_answer_is_said_and_the_order_decides(fake):
    fake.answers("sbatch", ("", "sbatch: a version that says something else\n", 0))
    notes = []
    rows = ask_start_times(candidates(), notes.append)
    assert notes == ["Slurm gave no start time for big, middle."]
    assert chosen(choose(rows, "soonest", HOUR)) == "big"


def test_a_controller_that_is_away_is_asked_once_only(fake):
    fake.answers("sinfo", refused("Unable to contact slurm controller (connect failure)"))
    notes = []
    rows = ask_start_times(candidates(), notes.append, patience=0.0)
    assert len(notes) == 1 and "order of the rungs decides" in notes[0]
    assert chosen(choose(rows, "best-within", HOUR)) == "big" and not fake.calls("sbatch")
