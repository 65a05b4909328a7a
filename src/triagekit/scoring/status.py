"""How far an archive job is: told by its driver in a small file, read from any other terminal."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triagekit.decoding.counts import DecodeCounts
from triagekit.errors import TriageError
from triagekit.files.atomic import write_json
from triagekit.scoring.job_card import JOB_FILE
from triagekit.scoring.manifest import MANIFEST_FILE
from triagekit.scoring.stopping import ScoringInterrupted
from triagekit.scoring.trouble import disk_full, is_disk_full

STATUS_FILE = "status.json"
WRITE_SECONDS = 2.0
SILENT_SECONDS = 300.0
"""A driver on another machine that has told nothing for so long is taken for dead; loading a model is silent too."""


@dataclass
class StatusBoard:
    """The driver's own account. Rows are tickets and rejects alike, so that `rows_done` reaches `rows_total`."""

    folder: Path
    rows_total: int | None
    rows_kept: int = 0
    rows_scored: int = 0
    rejects: int = 0
    unchanged: int = 0
    errors: int = 0
    review: int = 0
    lost_workers: int = 0
    parts_redone: int = 0
    workers: list[dict[str, Any]] = field(default_factory=list)
    work: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.time)
    scoring_since: float | None = None
    scoring_until: float | None = None
    _written: float = 0.0

    @property
    def rows_done(self) -> int:
        """Rows that need nothing more."""
        return self.rows_kept + self.rows_scored + self.rejects + self.unchanged

    @property
    def rows_per_second(self) -> float | None:
        """Tickets scored by this run a second, from when its workers were ready until the last part stood."""
        if self.scoring_since is None or not self.rows_scored:
            return None
        return self.rows_scored / max(1e-9, (self.scoring_until or time.time()) - self.scoring_since)

    @property
    def decoding(self) -> dict[str, float] | None:
        """What a ticket took on average, and what was wasted, as shares: padding in the attention of prompts, and places
        of the batch that stood empty. None before the first part, and without the constraint."""
        counts = DecodeCounts(**self.work)
        if not counts.rows:
            return None
        return {
            "tokens_per_ticket": round(counts.tokens / counts.rows, 1),
            "prompt_padding": round(counts.prompt_padding, 4),
            "idle_slots": round(counts.idle_slots, 4),
        }

    def tell(self, state: str = "running", message: str | None = None, at_once: bool = False) -> None:
        """Write status.json, at most every two seconds unless `at_once`."""
        now = time.monotonic()
        if not at_once and now - self._written < WRITE_SECONDS:
            return
        self._written = now
        # It is for onlookers: a disk that takes no more is told by the next part, and not by this.
        with contextlib.suppress(OSError):
            write_json(self.folder / STATUS_FILE, self.to_dict(state, message))

    def figures(self) -> dict[str, Any]:
        """What is shown beside the progress bar."""
        done = self.rows_kept + self.rows_scored
        workers = "+".join(f"{item['rows_per_second']:.1f}" for item in self.workers)
        shown: dict[str, Any] = {"review": f"{self.review / done:.1%}" if done else "–", "errors": self.errors}
        if workers:
            shown["workers"] = f"{workers}/s"
        if self.lost_workers:
            shown["lost"] = self.lost_workers
        return shown

    def to_dict(self, state: str, message: str | None) -> dict[str, Any]:
        """JSON form."""
        rate = self.rows_per_second
        left = None if rate is None or self.rows_total is None else max(0, self.rows_total - self.rows_done) / rate
        return {
            "state": state,
            "message": message,
            "rows_done": self.rows_done,
            "rows_total": self.rows_total,
            "rows_kept": self.rows_kept,
            "rows_scored": self.rows_scored,
            "rejects": self.rejects,
            "unchanged": self.unchanged,
            "review": self.review,
            "errors": self.errors,
            "rows_per_second": None if rate is None else round(rate, 3),
            "seconds_left": None if left is None else round(left, 1),
            "decoding": self.decoding,
            "workers": self.workers,
            "lost_workers": self.lost_workers,
            "parts_redone": self.parts_redone,
            "process": os.getpid(),
            "host": os.uname().nodename,
            "began": round(self.began, 1),
            "updated": round(time.time(), 1),
        }


@contextlib.contextmanager
def told(board: StatusBoard) -> Iterator[StatusBoard]:
    """Say in status.json that the job runs, and how it ended, whichever way."""
    board.tell(at_once=True)
    try:
        yield board
    except ScoringInterrupted as stop:
        board.tell("stopped", str(stop), at_once=True)
        raise
    except BaseException as error:
        board.tell("failed", str(error) or type(error).__name__, at_once=True)
        if is_disk_full(error):
            raise disk_full(board.folder, error) from None
        raise
    board.tell("finished", at_once=True)


def job_folders(folder: Path) -> list[Path]:
    """`folder` itself, or the jobs in it where several runs were scored together."""
    inside = sorted(path.parent for path in folder.glob(f"*/{JOB_FILE}"))
    return inside if inside and not (folder / JOB_FILE).exists() else [folder]


def read_status(folder: Path, alive: Callable[[int], bool] | None = None) -> dict[str, Any]:
    """status.json with what can be seen from outside: a `running` job whose driver is gone is `cut off`.

    Raises TriageError for a folder that is not an archive job's.
    """
    path = folder / STATUS_FILE
    if not path.is_file():
        if (folder / JOB_FILE).is_file():
            finished = (folder / MANIFEST_FILE).is_file()
            return {"state": "finished" if finished else "cut off", "message": None, "folder": str(folder)}
        raise TriageError(f"{folder} is not the --out folder of an archive job: it has no {JOB_FILE}.")
    try:
        status = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise TriageError(f"{path} is damaged ({error}); the job writes it anew when it goes on.") from None
    if status["state"] == "running":
        here = status["host"] == os.uname().nodename
        silent = time.time() - status["updated"]
        if not (alive or _alive)(status["process"]) if here else silent > SILENT_SECONDS:
            status["state"] = "cut off"
            status["message"] = "Its driver is gone. The same command scores what is missing."
    return {**status, "folder": str(folder)}


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
