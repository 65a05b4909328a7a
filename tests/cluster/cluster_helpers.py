"""What tests on the real Slurm say in one word: submit, wait for a state, read a job's record and its log."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mini_slurm import MiniSlurm

Value = TypeVar("Value")

# States a job does not leave by itself.
ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "DEADLINE",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
)


def submit(slurm: MiniSlurm, script: str | Path, *options: str, directory: Path | None = None) -> str:
    """Submit a script's text or file to run in `directory` (by default the cluster's own); the job id."""
    path = Path(script) if isinstance(script, Path) or "\n" not in script else None
    if path is None:
        path = slurm.folder / f"script-{time.monotonic_ns()}.sh"
        path.write_text(str(script))
    return slurm.run("sbatch", "--parsable", f"--chdir={directory or slurm.folder}", *options, str(path)).split()[0]


def job_info(slurm: MiniSlurm, job: str) -> dict[str, str]:
    """`scontrol show job` of one job or array element as a mapping, with the keys as Slurm spells them."""
    line = slurm.run("scontrol", "show", "job", "-o", "-d", job).splitlines()[0]
    return dict(re.findall(r"(?:^| )([A-Za-z][A-Za-z:/_]*)=(.*?)(?= [A-Za-z][A-Za-z:/_]*=|$)", line))


def job_state(slurm: MiniSlurm, job: str) -> str:
    """The job's state as `scontrol` says it, such as PENDING or COMPLETED."""
    return job_info(slurm, job)["JobState"]


def wait_for_state(slurm: MiniSlurm, job: str, *states: str, timeout: float = 180.0) -> dict[str, str]:
    """Wait until the job is in one of `states`; its record then. Fails, with its log, when it ends in another."""
    until = time.monotonic() + timeout
    while True:
        info = job_info(slurm, job)
        if info["JobState"] in states:
            return info
        if info["JobState"] in ENDED and info["Reason"] != "BeginTime":
            raise AssertionError(f"job {job} ended {info['JobState']}, not {' or '.join(states)}\n{job_log(info)}")
        if time.monotonic() > until:
            raise AssertionError(
                f"job {job} is {info['JobState']} ({info['Reason']}) after {timeout} s\n{job_log(info)}"
            )
        time.sleep(0.2)


def wait_until(
    condition: Callable[[], Value], what: str, timeout: float = 180.0, slurm: MiniSlurm | None = None
) -> Value:
    """Wait until `condition` gives something true, and return that."""
    until = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"waited {timeout} s for: {what}" + (f"\n{slurm.run('squeue')}" if slurm else ""))
        time.sleep(0.1)
    return value


def job_log(info: dict[str, str]) -> str:
    """What the job wrote, standard error included."""
    texts = []
    for name in dict.fromkeys((info.get("StdOut", ""), info.get("StdErr", ""))):
        if name and Path(name).is_file():
            texts.append(f"--- {name}\n{Path(name).read_text(errors='replace')}")
    return "\n".join(texts)


def end_soon(slurm: MiniSlurm, job: str, seconds: int) -> None:
    """Move a running job's time limit to `seconds` from now; Slurm looks at limits every 30 s."""
    slurm.run("scontrol", "update", f"jobid={job}", f"EndTime=now+{seconds}seconds")


def python_command(*words: str) -> str:
    """A shell line that runs this Python with these words."""
    return shlex.join([sys.executable, *words])
