"""Sums between two training lines and over the whole run, of this process and over all of them."""

from __future__ import annotations

import time
from typing import Any

import torch

from triagekit.training.collator import Batch, row_count, token_count
from triagekit.training.loss import TokenLosses
from triagekit.training.process_group import ProcessGroup


class Measurements:
    """What one process has computed. The first process carries on the sums of earlier sessions."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self._seconds_before = 0.0
        self._trained_tokens = 0
        self._rows_seen = 0
        self._session_start: float | None = None
        self._session_tokens = 0
        self._speed_mark = (0.0, 0)
        self._loss: Any = 0.0
        self._correct: Any = 0
        self._count = 0
        self._steps = 0

    def add(self, loss: torch.Tensor, losses: TokenLosses, inputs: Batch) -> None:
        """Count one micro-batch; one with nothing to learn from only keeps other processes company."""
        count = losses.correct.numel()
        if not count:
            return
        self._loss = self._loss + loss.detach()
        self._correct = self._correct + losses.correct.sum()
        self._count += count
        self._trained_tokens += count
        self._rows_seen += row_count(inputs)
        self._session_tokens += token_count(inputs)

    def count_step(self) -> None:
        """One more optimizer step is part of the next training line."""
        self._steps += 1

    @property
    def has_steps(self) -> bool:
        """Whether there is something for a training line."""
        return self._steps > 0

    def line(self) -> dict[str, float]:
        """Loss (mean of the steps), token accuracy and speed since the last line, over all processes; then the next one
        begins. Collective."""
        now, (before, tokens_before) = time.monotonic(), self._speed_mark
        loss, correct, count, tokens = self._group.reduce(
            [self._loss, self._correct, self._count, self._session_tokens - tokens_before]
        )
        figures = {
            "loss": loss / self._steps,
            "token_accuracy": correct / count,
            "tokens_per_second": round(tokens / max(now - before, 1e-9), 1),
        }
        self.restart_clock()
        self._loss, self._correct, self._count, self._steps = 0.0, 0, 0, 0
        return figures

    def restart_clock(self) -> None:
        """Time until now is no part of the next line's speed."""
        self._speed_mark = (time.monotonic(), self._session_tokens)

    def begin_session(self) -> None:
        """Training time counts from now on."""
        self._session_start = time.monotonic()
        self._speed_mark = (self._session_start, 0)

    def end_session(self) -> None:
        """Training time no longer counts."""
        self._seconds_before, self._session_start = self.seconds(), None

    def seconds(self) -> float:
        """Training time of this run, earlier sessions included; work that a kill threw away is not."""
        return self._seconds_before + (time.monotonic() - self._session_start if self._session_start else 0.0)

    def window(self) -> list[float]:
        """This process's part of the next training line: loss, right tokens, tokens, steps."""
        return [float(self._loss), int(self._correct), self._count, self._steps]

    def totals(self) -> dict[str, Any]:
        """What the next lines of the log depend on, over all processes. Collective."""
        loss, correct, count, steps = self.window()
        sums = self._group.reduce([self._trained_tokens, self._rows_seen, loss, correct, count])
        return {
            "seconds": self.seconds(),
            "trained_tokens": int(sums[0]),
            "rows_seen": int(sums[1]),
            "window": [sums[2], int(sums[3]), int(sums[4]), int(steps)],
            "world": self._group.ranks.size,
        }

    def restore(self, totals: dict[str, Any], own_window: list[Any] | None) -> None:
        """Put totals() of an earlier session back. Parts of the next line go to those who had them, or, where there
        were more or fewer processes, to the first."""
        self._seconds_before = totals["seconds"]
        main = self._group.main
        if main:
            self._trained_tokens, self._rows_seen = totals["trained_tokens"], totals["rows_seen"]
        window = totals["window"] if main else [0.0, 0, 0, totals["window"][3]]
        if own_window is not None and totals["world"] == self._group.ranks.size:
            window = own_window
        self._loss, self._correct, self._count, self._steps = window
