"""Commands side by side: at most so many, each with its share of the machine, none left behind by a signal."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from triagekit.sweep import tasks
from triagekit.sweep.tasks import Task, TasksStopped, environment_of, run_tasks

SCRIPT = """#!{python}
import os, signal, sys, time
folder, what = {folder!r}, sys.argv[-1]
def stop(number, frame):
    open(os.path.join(folder, f"{{what}}.stopped"), "w").write(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
open(os.path.join(folder, f"{{what}}.began"), "w").write(str(time.time()))
print("output of", what)
time.sleep(60 if what.startswith("long") else 0.3)
open(os.path.join(folder, f"{{what}}.ended"), "w").write(str(time.time()))
sys.exit(3 if what.startswith("bad") else 0)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Tasks run a script that tells when it began and ended, in place of `triage`."""
    script = tmp_path / "script"
    script.write_text(SCRIPT.format(python=sys.executable, folder=str(tmp_path)))
    script.chmod(0o755)
    monkeypatch.setattr(tasks.sys, "executable", str(script))
    return tmp_path


def task(place, name):
    return Task(name, (name,), place / "logs" / f"{name}.log")


def times(place, ending):
    return {path.stem: float(path.read_text()) for path in place.glob(f"*.{ending}")}


def test_all_are_run_no_more_than_asked_for_at_once_and_failures_stop_no_other(place):
    ended = {}
    names = ["a", "bad", "b", "c"]
    run_tasks([task(place, name) for name in names], 2, lambda done, code: ended.update({done.name: code}))
    assert ended == {"a": 0, "bad": 3, "b": 0, "c": 0}
    assert (place / "logs" / "b.log").read_text() == "output of b\n"
    began, stopped = times(place, "began"), times(place, "ended")
    for name in names:
        others = [other for other in names if began[other] <= began[name] < stopped[other]]
        assert len(others) <= 2


def test_a_signal_reaches_what_runs_and_nothing_new_is_started(place):
    def interrupt():
        for _ in range(600):
            if len(times(place, "began")) == 2:
                break
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(TasksStopped) as stop:
        run_tasks([task(place, name) for name in ("long1", "long2", "never")], 2, lambda done, code: None)
    thread.join()
    assert stop.value.exit_code == 128 + signal.SIGTERM
    assert {path.stem for path in place.glob("*.stopped")} == {"long1", "long2"}
    assert not (place / "never.began").exists()


def test_cores_and_cards_are_shared(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert "OMP_NUM_THREADS" not in environment_of(0, 1)
    shares = [environment_of(slot, 2) for slot in (0, 1)]
    assert [share["OMP_NUM_THREADS"] for share in shares] == ["4", "4"]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["4,6", "5"]
    assert environment_of(3, 4)["CUDA_VISIBLE_DEVICES"] == "4,5,6", "too few for all: everyone sees all of them"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment_of(0, 2)["OMP_NUM_THREADS"] == "3", "what the user has set stays"
