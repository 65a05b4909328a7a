"""Training jobs for the tests on the real Slurm: a small data set, submitted runs, and what to compare them by."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster_helpers import job_info, job_log, wait_for_state, wait_until
from mini_slurm import MiniSlurm

from triagekit.cluster.attempt import Attempt, read_attempts
from triagekit.training.run_folder import RunFolder

# Small enough for seconds, with a checkpoint at every step: nothing that a kill takes away is ever more than one.
SMALL = (
    "data=data",
    "max_train_rows=64",
    "batch.effective=4",
    "batch.micro=4",
    "checkpoints.every_steps=1",
    "evaluation.max_rows=8",
    "log_every_steps=1",
    "prompt.max_length=384",
    "adapter.dropout=0.1",
)
STEPS = 24


def triage(slurm: MiniSlurm, directory: Path, *words: str, expect: int = 0) -> str:
    """Standard output of a `triage` command run on the login node, so to speak."""
    result = subprocess.run(
        [sys.executable, "-m", "triagekit", *words],
        env=slurm.environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == expect, f"triage {' '.join(words)}: {result.returncode}\n{result.stdout}{result.stderr}"
    return result.stdout


def make_training_data(folder: Path) -> Path:
    """`folder`/data: tickets as `triage data` generates and prepares them."""
    folder.mkdir(parents=True, exist_ok=True)
    for words in (
        ["data", "generate", "--rows", "300", "--seed", "5", "--out", "raw.jsonl"],
        ["data", "prepare", "it_tickets", "--source", "raw.jsonl", "--out", "data"],
    ):
        subprocess.run([sys.executable, "-m", "triagekit", *words], cwd=folder, check=True, capture_output=True)
    return folder


@dataclass
class TrainingJob:
    """One submitted run."""

    slurm: MiniSlurm
    run: RunFolder
    id: str
    rung: str

    @classmethod
    def submit(cls, slurm: MiniSlurm, directory: Path, name: str, *words: str, steps: int = STEPS) -> TrainingJob:
        """`triage submit train lora …`, by default at the site of the tests."""
        site = () if "--site" in words else ("--site", "test")
        settings = [*SMALL, f"max_steps={steps}", f"name={name}", "output=runs"]
        text = triage(slurm, directory, "submit", "train", "lora", *settings, *site, "--json", *words)
        job = json.loads(text)["jobs"][0]
        return cls(slurm, RunFolder(directory / "runs" / name), job["job_id"], job["rung"])

    @property
    def attempts(self) -> list[Attempt]:
        """As the project reads them."""
        return read_attempts(self.run.folder)

    @property
    def states(self) -> list[str]:
        """How the attempts ended."""
        return [attempt.state for attempt in self.attempts]

    def info(self) -> dict[str, str]:
        """What Slurm says of it now."""
        return job_info(self.slurm, self.id)

    def step(self) -> int:
        """Optimizer steps logged so far."""
        return max((line.get("step", 0) for line in self.run.metric_lines()), default=0)

    def wait_for_step(self, step: int, timeout: float = 300.0) -> None:
        """Until so many steps are done; fails, with the log, when the job ends before."""

        def reached() -> bool:
            info = self.info()
            ended = info["JobState"] in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
            assert not ended, f"job {self.id} ended {info['JobState']}\n{job_log(info)}"
            return self.step() >= step

        wait_until(reached, f"step {step} of {self.run.folder}\n{job_log(self.info())}", timeout, self.slurm)

    def wait(self, *states: str, timeout: float = 300.0) -> dict[str, str]:
        """Until the job is in one of these states."""
        return wait_for_state(self.slurm, self.id, *states, timeout=timeout)

    def processes(self) -> list[int]:
        """The training processes of the attempt at work, as this machine numbers them."""
        mark = f"TRIAGEKIT_ATTEMPT={self.id}.".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                variables = (entry / "environ").read_bytes().split(b"\0")
                if b"python" in words[0] and b"train" in words and any(line.startswith(mark) for line in variables):
                    found.append(int(entry.name))
        return found

    @contextlib.contextmanager
    def frozen(self, at_least: int = 1) -> Iterator[list[int]]:
        """Hold the training still, so that what the test waits for happens in the middle of it."""
        processes = self.processes()
        assert len(processes) >= at_least, f"job {self.id} has no training process\n{job_log(self.info())}"
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
        try:
            yield processes
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)


def is_warned(process: int) -> bool:
    """Whether a frozen process has been sent SIGUSR2: it waits for it, or (Slurm wakes it up for that) has left."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except FileNotFoundError:
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return "State:\tT (stopped)" not in lines or any(mask & 1 << (signal.SIGUSR2 - 1) for mask in masks)


def assert_same_result(job: TrainingJob, reference: TrainingJob) -> None:
    """The same final adapter to the last bit, and every step measured once, with the same loss."""
    for name in ("adapter_model.safetensors", "adapter_config.json", "triagekit.json"):
        ours, theirs = ((run.run.adapter / name).read_bytes() for run in (job, reference))
        assert ours == theirs, f"{name} of {job.run.name} differs from {reference.run.name}'s"
    assert losses(job.run) == losses(reference.run)
    assert job.run.is_finished
    assert job.run.status == "finished"


def losses(run: RunFolder) -> list[tuple[int, str, float]]:
    """Step, split and loss of each measurement, in the order written."""
    return [(line["step"], line["split"], line["loss"]) for line in run.metric_lines()]
