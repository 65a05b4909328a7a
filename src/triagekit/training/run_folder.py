"""One run = one folder of plain files. This module knows their names and needs neither torch nor pydantic."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from triagekit.errors import Problem, ProblemsError, TriageError, did_you_mean
from triagekit.files.atomic import write_json, write_text
from triagekit.files.yaml_file import load_yaml

Status = Literal["running", "finished", "stopped", "preempted"]

# A run may be moved or renamed, go on with other devices, or tell others of itself, between two starts; none of it makes
# it another run.
PLACE_KEYS = ("name", "output", "hardware", "report_to")

ADDED_LATER: dict[str, Any] = {"labels_alone_share": 0.0}
"""Settings that came after the first runs were made, as they were for a run whose config.yaml does not name them."""


@dataclass(frozen=True)
class RunSummary:
    """One line of `triage runs list`."""

    name: str
    status: Status
    method: str
    base: str
    data: str
    seed: int | None
    step: int
    steps: int | None
    val_loss_best: float | None
    seconds: float | None
    bytes: int


class RunFolder:
    """`runs/<name>/`: config.yaml, plan.json, environment.json, metrics.jsonl, tensorboard/, checkpoints/, adapter/,
    eval/<split>/ and, written last, summary.json."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def config(self) -> Path:
        """The settings as resolved."""
        return self.folder / "config.yaml"

    @property
    def plan(self) -> Path:
        """Steps, rows, token statistics, trainable table, fingerprints; known before the first step."""
        return self.folder / "plan.json"

    @property
    def environment(self) -> Path:
        """Git state, versions and hardware of every start of this run."""
        return self.folder / "environment.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a measurement."""
        return self.folder / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The same measurements for TensorBoard."""
        return self.folder / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """What a killed run continues from."""
        return self.folder / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The result: what scoring loads."""
        return self.folder / "adapter"

    @property
    def summary(self) -> Path:
        """Written last: a run without it is not finished."""
        return self.folder / "summary.json"

    @property
    def stopped(self) -> Path:
        """Which signal ended the last start with a checkpoint; taken away by the next start."""
        return self.folder / "stopped.json"

    @property
    def rate_test(self) -> Path:
        """Folder of the last learning-rate test, which may come before the run."""
        return self.folder / "find_lr"

    def evaluation(self, split: str) -> Path:
        """Folder of the measurements on one split."""
        return self.folder / "eval" / split

    @classmethod
    def create(cls, folder: Path, settings: Mapping[str, Any], yaml_text: str) -> RunFolder:
        """Make the folder and its config.yaml, or open the one that is there with the same settings.

        Raises ProblemsError listing every differing key when the folder holds a run with other settings.
        """
        run = cls(folder)
        if run.config.is_file():
            run._refuse_other_settings(settings)
            return run
        run.make_place()
        write_text(run.config, yaml_text)
        return run

    def make_place(self) -> None:
        """Make the folder, which may hold a learning-rate test but nothing else. Raises TriageError for any other folder."""
        there = self.folder.iterdir() if self.folder.is_dir() else ()
        if self.folder.is_file() or any(not (entry.name.startswith(".") or entry == self.rate_test) for entry in there):
            raise TriageError(f"{self.folder} exists and is not a run. Choose another name (--name) or remove it.")
        self.folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def open(cls, folder: Path | str) -> RunFolder:
        """A run that exists. Raises TriageError naming the nearest run otherwise."""
        run = cls(folder)
        if not run.config.is_file():
            path = Path(folder)
            others = [entry.name for entry in _run_folders(path.parent)]
            raise TriageError(f"No run at {path}. {did_you_mean(path.name, others)}".rstrip())
        return run

    def _refuse_other_settings(self, settings: Mapping[str, Any]) -> None:
        before, now = _flatten(self.settings()), _flatten(settings)
        differing = [
            Problem(key, f"the run has {_shown(before.get(key))}, now asked: {_shown(now.get(key))}.")
            for key in sorted(before.keys() | now.keys())
            if key.partition(".")[0] not in PLACE_KEYS and before.get(key) != now.get(key)
        ]
        if differing:
            raise ProblemsError(
                f"{self.folder} holds a run with other settings. Give this one its own name (--name), "
                f"or remove the old one (triage runs rm {self.name}). What differs:",
                differing,
            )

    def settings(self) -> dict[str, Any]:
        """config.yaml as plain data, with the settings that came after it was written."""
        data = load_yaml(self.config).data
        if not isinstance(data, dict):
            raise TriageError(f"{self.config} is damaged: it holds no settings.")
        return {**ADDED_LATER, **data}

    def read(self, path: Path) -> dict[str, Any]:
        """One of this run's JSON files; {} when it is not there (yet)."""
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise TriageError(f"{path} is damaged: {error}.") from None

    @property
    def is_finished(self) -> bool:
        """Whether the summary, written last, is there."""
        return self.summary.is_file()

    @property
    def status(self) -> Status:
        """finished: has its summary; running: a process holds its lock; preempted: SIGUSR2 or SIGTERM, as batch systems
        send them, ended it with a checkpoint; stopped: anything else."""
        if self.is_finished:
            return "finished"
        try:
            with self.lock(patience=0.0):
                return self._why_it_stands()
        except TriageError:
            return "running"
        except OSError:
            # A folder of somebody else's, where no lock file can be made.
            return self._why_it_stands()

    def _why_it_stands(self) -> Status:
        return "preempted" if self.read(self.stopped).get("signal") in {"SIGUSR2", "SIGTERM"} else "stopped"

    @contextlib.contextmanager
    def lock(self, patience: float = 1.0) -> Iterator[None]:
        """Hold this run for one process; the operating system lets go when that process ends, however it ends.

        Waits up to `patience` seconds, since looking at a run's status holds it for an instant. Raises TriageError when
        another process keeps it.
        """
        import fcntl

        descriptor = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR, 0o666)
        try:
            until = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise TriageError(f"Another process is working on {self.folder} right now.") from None
                    time.sleep(0.05)
                except OSError:
                    # Some network file systems have no locks; a run there is trusted to be started once.
                    break
            yield
        finally:
            os.close(descriptor)

    def write_stopped(self, signal_number: int, step: int, steps: int) -> None:
        """Note that a signal ended this start after `step`, with a checkpoint."""
        record = {
            "signal": signal.Signals(signal_number).name,
            "step": step,
            "steps": steps,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "attempt": os.environ.get("TRIAGEKIT_ATTEMPT"),
        }
        write_json(self.stopped, record)

    def metric_lines(self) -> list[dict[str, Any]]:
        """The measurements so far; a last line cut by a kill is left out."""
        lines = []
        with contextlib.suppress(FileNotFoundError):
            for text in self.metrics.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    lines.append(json.loads(text))
        return lines

    def describe(self) -> RunSummary:
        """What `triage runs list` shows of this run."""
        settings, plan, summary = self.settings(), self.read(self.plan), self.read(self.summary)
        lines = self.metric_lines()
        losses = [line["loss"] for line in lines if line.get("split") == "val"]
        return RunSummary(
            name=self.name,
            status=self.status,
            method=str(settings.get("adapter", {}).get("method", "")),
            base=str(settings.get("base", "")),
            data=str(settings.get("data", "")),
            seed=settings.get("seed"),
            step=summary.get("steps") or max((line.get("step", 0) for line in lines), default=0),
            steps=plan.get("steps"),
            val_loss_best=summary.get("val_loss_best") or min(losses, default=None),
            seconds=summary.get("seconds"),
            bytes=sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()),
        )

    def remove(self) -> None:
        """Delete the folder with all that is in it. Raises TriageError while a process works on it."""
        with self.lock():
            shutil.rmtree(self.folder)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the marker that says: finished."""
        write_json(self.summary, dict(summary))


def list_runs(root: Path | str = "runs") -> list[RunSummary]:
    """Every run below `root`, by name. Raises TriageError when there is no such folder."""
    if not Path(root).is_dir():
        raise TriageError(f"No folder {root}: no run has been made here. Start one: triage train lora")
    return [RunFolder(folder).describe() for folder in _run_folders(Path(root))]


def _run_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(entry for entry in root.iterdir() if (entry / "config.yaml").is_file())


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        dotted = f"{prefix}{key}"
        if isinstance(inner, Mapping) and inner:
            flat.update(_flatten(inner, f"{dotted}."))
        else:
            flat[dotted] = inner
    return flat


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)
