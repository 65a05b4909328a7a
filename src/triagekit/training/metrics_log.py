"""metrics.jsonl and TensorBoard, kept free of doubled steps when a run continues from a checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from typing import IO, Any

from triagekit.files.atomic import write_jsonl
from triagekit.training.run_folder import RunFolder


class MetricsLog:
    """Appends measurements to a run. Opened at the step from which the run goes on: later lines are taken out first,
    and the TensorBoard files are rebuilt from what stays (they cannot be cut)."""

    def __init__(self, run: RunFolder, step: int) -> None:
        self._run = run
        kept = [line for line in run.metric_lines() if line.get("step", 0) <= step]
        write_jsonl(run.metrics, kept)
        shutil.rmtree(run.tensorboard, ignore_errors=True)
        self._file: IO[str] = run.metrics.open("a", encoding="utf-8")
        self._writer = self._open_tensorboard()
        for line in kept:
            self._to_tensorboard(line)

    def _open_tensorboard(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            # The TensorBoard package is a convenience; metrics.jsonl holds the same figures.
            return None
        return SummaryWriter(log_dir=str(self._run.tensorboard))

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one measurement, e.g. {"step": 10, "split": "val", "loss": 0.4}; visible to readers at once."""
        self._file.write(json.dumps(dict(line), ensure_ascii=False) + "\n")
        self._file.flush()
        self._to_tensorboard(line)

    def _to_tensorboard(self, line: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        for name, value in line.items():
            if name not in {"step", "split", "epoch"} and isinstance(value, (int, float)):
                self._writer.add_scalar(f"{line['split']}/{name}", value, line["step"])

    def sync(self) -> None:
        """Force what is written to disk: a checkpoint must never know more than metrics.jsonl."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Flush and close both."""
        self.sync()
        self._file.close()
        if self._writer is not None:
            self._writer.close()
