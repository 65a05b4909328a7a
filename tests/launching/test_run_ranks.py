"""Two real processes under `accelerate launch`: what reaches them, and how their end is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from triagekit.launching.processes import children_of

pytestmark = pytest.mark.timeout(300)
WORDS = ["name='a b'", "a=$$b ${local_rank} $x", "b={x: [1, 2]}", '"', "--rung", ""]


def start(mode, folder, **environment):
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "launcher.py"), mode, str(folder), *WORDS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def both(folder, pattern):
    """Wait until both ranks have written their file."""
    until = time.monotonic() + 200
    while len(found := sorted(folder.glob(pattern))) < 2:
        assert time.monotonic() < until, list(folder.iterdir())
        time.sleep(0.05)
    return found


def end_of(process):
    output, errors = process.communicate(timeout=200)
    line = next((line for line in output.splitlines() if line.startswith("END ")), None)
    return (json.loads(line[4:]) if line else None), output, errors


def tree(process):
    return [process, *(found for child in children_of(process) for found in tree(child))]


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_words_reach_the_ranks_as_they_are_and_signals_do_not_reach_the_agent(tmp_path):
    process = start("finish", tmp_path)
    end, _, errors = end_of(process)
    for path in both(tmp_path, "?.json"):
        seen = json.loads(path.read_text(encoding="utf-8"))
        assert seen["words"] == WORDS
        assert seen["deaf"] == [True, True, True]
        assert int(seen["threads"]) >= 1
    assert [report["end"] for report in end["reports"]] == ["finished", "finished"]
    assert (end["code"], end["ranks"], end["killed"], end["signal_number"]) == (0, 2, [], None)
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("to", "number"),
    [("group", signal.SIGINT), ("all", signal.SIGTERM)],
)
def test_a_stop_signal_lets_every_rank_save_once(tmp_path, to, number):
    process = start("wait", tmp_path)
    both(tmp_path, "?.json")
    processes = tree(process.pid)
    assert len(processes) == 4  # launcher, agent, two ranks
    if to == "group":
        os.killpg(process.pid, number)
    else:
        for one in processes:
            os.kill(one, number)
    end, _, errors = end_of(process)
    both(tmp_path, "?.saved")
    assert [(report["end"], report["signal_number"]) for report in end["reports"]] == [("stopped", number)] * 2
    assert end["signal_number"] == number and not end["killed_by_person"]
    assert "Traceback" not in errors


def test_a_signal_before_the_ranks_can_hear_is_not_lost(tmp_path):
    process = start("wait", tmp_path)
    until = time.monotonic() + 100
    while len(tree(process.pid)) < 2:  # the agent is there, its ranks are not
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGUSR2)
    end, _, _ = end_of(process)
    assert [report["end"] for report in end["reports"]] == ["stopped", "stopped"]


def test_nobody_outlives_a_killed_launcher(tmp_path):
    process = start("wait", tmp_path)
    both(tmp_path, "?.json")
    processes = tree(process.pid)
    process.kill()
    process.communicate(timeout=60)
    until = time.monotonic() + 20
    while any(alive(one) for one in processes):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not list(tmp_path.glob("*.saved"))


def test_a_second_ctrl_c_ends_everything_at_once(tmp_path):
    process = start("wait", tmp_path)
    both(tmp_path, "?.json")
    processes = tree(process.pid)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    end, _, _ = end_of(process)
    assert end["killed_by_person"]
    assert not any(alive(one) for one in processes)


def test_an_error_is_told_once_and_without_the_agents_words(tmp_path):
    end, _, errors = end_of(start("refuse", tmp_path))
    assert {(report["end"], report["message"]) for report in end["reports"]} == {("refused", "The data are not there.")}
    assert end["code"] == 1 and end["killed"] == []
    assert errors.strip() == ""


def test_a_crash_prints_one_traceback(tmp_path):
    end, _, errors = end_of(start("crash", tmp_path))
    assert {report["message"] for report in end["reports"]} == {"ValueError: odd"}
    assert errors.count("Traceback") == 1 and "ChildFailedError" not in errors


def test_a_killed_rank_is_named(tmp_path):
    end, _, _ = end_of(start("killed", tmp_path))
    assert end["killed"] == [1] and end["code"] == 1


def test_two_nodes_of_a_slurm_step_meet_each_other(tmp_path, scontrol):
    scontrol("127.0.0.1", "localhost")
    folder = tmp_path / "ranks"
    folder.mkdir()
    nodes = [
        start(
            "finish",
            folder,
            SLURM_STEP_ID="0",
            SLURM_JOB_ID="4711",
            SLURM_NNODES="2",
            SLURM_STEP_NUM_TASKS="2",
            SLURM_NODEID=str(node),
            SLURM_JOB_NODELIST="a[1-2]",
        )
        for node in range(2)
    ]
    ends = [end_of(node)[0] for node in nodes]
    assert [end["ranks"] for end in ends] == [1, 1]
    # Which node has rank 0 is for the rendezvous to say.
    assert sorted(report["rank"] for end in ends for report in end["reports"]) == [0, 1]
    assert {json.loads(path.read_text(encoding="utf-8"))["world"] for path in folder.glob("?.json")} == {"2"}
