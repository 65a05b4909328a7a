"""Jobs through submitit: the callable that travels is a list of words, and the work is a child of it.

So what is pickled stays a few hundred bytes, and code that changes between submission and start changes nothing about
the callable. `checkpoint` waits until the child has saved, then submitit requeues the job with the same words.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.cluster.durations import parse_duration
from triagekit.cluster.job_scripts import place_options, preamble
from triagekit.cluster.sites import RungPlace, SiteSettings
from triagekit.errors import TriageError
from triagekit.launching.processes import start_child

if TYPE_CHECKING:
    import submitit

LEAST_MINUTES = 11
"""submitit takes every preemption of a job of ten minutes or less for a time-out, and allows few of those."""
REPEAT_SECONDS = 2.0
POLL_SECONDS = 0.2
ECHO_SECONDS = 30.0
STOPPED = (128 + signal.SIGUSR2, 128 + signal.SIGTERM)
_OWN = {"nodes", "ntasks-per-node", "time"}


@dataclass
class CommandJob:
    """`python -m MODULE WORDS` as a job: what submitit pickles, calls on the node, and asks to checkpoint."""

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    patience: float = 100.0
    """seconds that the child may take to save after the warning"""

    def __call__(self) -> int:
        """Run the child to its end; 0. Raises RuntimeError for any other exit code, so that the job is a failed one."""
        self._child = start_child([sys.executable, *self.words], {**os.environ, **self.environment})
        code = self._wait()
        if code in STOPPED:
            # The child was told before this process was: give submitit's own handler the time to be called.
            time.sleep(ECHO_SECONDS)
        if code:
            raise RuntimeError(f"{shlex.join(self.words)} ended with exit code {code}; its own words are above.")
        return code

    def _wait(self) -> int:
        # Never Popen.wait(): a signal handler that polls the same child while wait() holds its lock would see nothing.
        while (code := self._child.poll()) is None:
            time.sleep(POLL_SECONDS)
        return 128 - code if code < 0 else code

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit in its signal handler: have the child save and end, then go on with the same words."""
        from submitit.helpers import DelayedSubmission

        # The requeue that follows sends SIGTERM to every process of the job, even to the `scontrol` that asks for it;
        # ignored here, it is ignored there too.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = getattr(self, "_child", None)
        until = time.monotonic() + self.patience
        due = 0.0
        while child is not None and not _has_ended(child.pid) and time.monotonic() < until:
            if time.monotonic() >= due:
                # A child that is still importing has no handler yet and ignores the signal, so it is sent again.
                os.kill(child.pid, signal.SIGUSR2)
                due = time.monotonic() + REPEAT_SECONDS
            time.sleep(POLL_SECONDS)
        return DelayedSubmission(CommandJob(self.words, self.environment, self.patience))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_child"}


def _has_ended(process: int) -> bool:
    """Whether a child has ended, without taking its exit code from whoever waits for it."""
    try:
        return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def load_submitit() -> Any:
    """The module. Raises TriageError saying how to get it."""
    try:
        import submitit
    except ImportError:
        raise TriageError(
            "The launchers in jobs/ need submitit: pip install 'triagekit[cluster]'. "
            "`triage submit` does the same without it."
        ) from None
    return submitit


def slurm_parameters(
    site: SiteSettings,
    place: RungPlace,
    *,
    name: str,
    nodes: int = 1,
    at_once: int | None = None,
    dependency: str | None = None,
    setup: Sequence[str] = (),
) -> dict[str, Any]:
    """submitit's words for what a site's profile says. Raises TriageError for what submitit cannot do there."""
    if site.requeue != "requeue":
        raise TriageError(
            f"Site {site.name} forbids requeueing, by which submitit continues a job. Use `triage submit`, which queues "
            "a successor there."
        )
    minutes = math.ceil(parse_duration(place.time_limit) / 60) if place.time_limit else LEAST_MINUTES
    if minutes < LEAST_MINUTES:
        raise TriageError(
            f"time_limit {place.time_limit} at site {site.name}: submitit takes a preemption for a time-out below "
            f"{LEAST_MINUTES} minutes. Give at least 11m, or use `triage submit`."
        )
    options = place_options(place, site, nodes=nodes)
    extra: dict[str, Any] = {
        key: True if value is None else value for key, value in options.items() if key not in {*_OWN, *_NAMED}
    }
    extra["requeue"] = True
    if dependency is not None:
        extra |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    parameters: dict[str, Any] = {
        "name": name,
        "nodes": int(options["nodes"] or 1),
        "tasks_per_node": 1,
        "timeout_min": minutes,
        "slurm_signal_delay_s": site.signal_seconds,
        "slurm_stderr_to_stdout": True,
        # Steps inherit neither from sbatch on all sites since Slurm 22.05.
        "slurm_srun_args": ["--export=ALL", "--kill-on-bad-exit=0", f"--cpus-per-task={place.cpus_per_task or 1}"],
        "slurm_setup": [*preamble(site), *setup],
        "slurm_additional_parameters": extra,
    }
    parameters |= {f"slurm_{key.replace('-', '_')}": options[key] for key in _NAMED if options.get(key)}
    if "cpus-per-task" in options:
        parameters["cpus_per_task"] = int(options["cpus-per-task"] or 1)
    if at_once is not None:
        parameters["slurm_array_parallelism"] = at_once
    return {key: value for key, value in parameters.items() if key != "slurm_cpus_per_task"}


_NAMED = ("partition", "gres", "constraint", "qos", "account", "mem", "cpus-per-task")


def make_executor(folder: Path, site: SiteSettings | None, parameters: Mapping[str, Any]) -> Any:
    """A submitit executor: Slurm's for a site, else one of processes on this machine."""
    submitit = load_submitit()
    folder.mkdir(parents=True, exist_ok=True)
    if site is None:
        executor = submitit.AutoExecutor(folder=folder, cluster="local")
        executor.update_parameters(timeout_min=60 * 24 * 14)
        return executor
    python = {"slurm_python": site.python} if site.python else {}
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=site.max_restarts, **python)
    executor.update_parameters(**parameters)
    return executor


def submit_all(executor: Any, jobs: Sequence[CommandJob]) -> list[Any]:
    """Submit jobs, several as one array. Raises TriageError with Slurm's words."""
    from submitit.core.utils import FailedJobError

    submitit = load_submitit()
    try:
        if len(jobs) == 1:
            return [executor.submit(jobs[0])]
        if isinstance(getattr(executor, "_executor", None), submitit.LocalExecutor):
            return [executor.submit(job) for job in jobs]
        with executor.batch():
            return [executor.submit(job) for job in jobs]
    except (FailedJobError, subprocess.CalledProcessError) as error:
        raise TriageError(f"Slurm refused the job: {str(error).strip()}") from None


def wait_for(handle: Any, seconds: float | None = None) -> str | None:
    """Wait for a job; None when it went well, else the line that says what went wrong."""
    until = None if seconds is None else time.monotonic() + seconds
    # The state is cached for minutes unless the answer is forced.
    while not handle.done(force_check=True):
        if until is not None and time.monotonic() > until:
            return f"not done after {seconds:.0f} s"
        time.sleep(1.0)
    error = handle.exception()
    if error is None:
        return None
    lines = str(error).strip().splitlines()
    # A traceback in submitit's words: what was raised stands in its last line of the form `SomeError: message`.
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", line)]
    return (raised or lines)[-1]
