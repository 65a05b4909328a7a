"""`jobs/attempts.jsonl` of a run: one line an attempt, written when it begins and again when it ends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from triagekit.errors import TriageError
from triagekit.files.atomic import write_jsonl
from triagekit.training.run_folder import RunFolder

# lost: Slurm ended it without letting it say so (node failure, or a preemption without grace).
State = Literal["running", "finished", "preempted", "timeout", "cancelled", "failed", "lost"]
Resume = Literal["requeue", "successor"]


@dataclass(frozen=True)
class Attempt:
    """One start of a run's job. Times are Unix seconds; steps are those of the newest checkpoint."""

    name: str
    job: str
    restart: int
    chain: str
    nodes: str
    resume: Resume
    state: State
    started: float
    step_before: int
    successor: str | None = None
    max_restarts: int | None = None
    max_walltime: float | None = None
    ended: float | None = None
    code: int | None = None
    step_after: int | None = None
    message: str = ""

    @property
    def seconds(self) -> float:
        """How long it worked; 0 while it runs."""
        return 0.0 if self.ended is None else max(0.0, self.ended - self.started)

    @property
    def made_progress(self) -> bool:
        """Whether it left a newer checkpoint than it found."""
        return self.step_after is not None and self.step_after > self.step_before


def attempts_path(run: Path | str) -> Path:
    """Where a run's attempts are written."""
    return Path(run) / "jobs" / "attempts.jsonl"


def read_attempts(run: Path | str) -> list[Attempt]:
    """All attempts of a run, oldest first; none where it was never started as a job.

    An attempt that Slurm ended without its knowledge is `running` here until the next one begins: only Slurm knows.
    Raises TriageError for a file that is not made of such lines.
    """
    path = attempts_path(run)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    try:
        return [Attempt(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise TriageError(f"{path} is damaged: {error}. Move it away; the run itself does not need it.") from None


def write_attempts(run: Path | str, attempts: Sequence[Attempt]) -> None:
    """Replace the list in one step."""
    write_jsonl(attempts_path(run), [dataclasses.asdict(attempt) for attempt in attempts])


def newest_step(run: Path | str) -> int:
    """The step of the newest completed checkpoint; 0 without one. Checksums are left to the training that resumes."""
    # Known by their names and markers: importing the checkpoints' own module would double the time this takes to start.
    names = [marker.parent.name for marker in RunFolder(run).checkpoints.glob("checkpoint-*/COMPLETE")]
    return max((int(number) for name in names if (number := name.removeprefix("checkpoint-")).isdigit()), default=0)


def last_sign_of_life(run: Path | str) -> float:
    """When the run's files last changed, in Unix seconds; 0 if it has none."""
    folder = RunFolder(run)
    times = [path.stat().st_mtime for path in (folder.metrics, folder.checkpoints) if path.exists()]
    return max(times, default=0.0)
