"""Sums between two training lines and over the whole run, of this process and over all of them."""

from __future__ import annotations

import time
from typing import Any

import torch

from triagekit.training.collator import Batch, computed_tokens, padded_tokens, row_count, token_count
from triagekit.training.environment import peak_memory
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
        self._content = self._computed = self._padded = 0

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
        content = token_count(inputs)
        self._session_tokens += content
        self._content += content
        self._computed += computed_tokens(inputs)
        self._padded += padded_tokens(inputs)

    def count_step(self) -> None:
        """One more optimizer step is part of the next training line."""
        self._steps += 1

    @property
    def has_steps(self) -> bool:
        """Whether there is something for a training line."""
        return self._steps > 0

    def line(self) -> dict[str, float]:
        """The figures of a training line, over all processes; then the next one begins. Collective.

        loss: mean of the steps, nats a token. token_accuracy: share of trained tokens that were the likeliest.
        tokens_per_second: tokens computed for their content. computed_tokens_share: tokens that went through the model
        over those that would have, were each row padded to the longest of its micro-batch; 1 without packing, and what
        is missing to 1 is saved. padding_share: of the tokens that went through the model, those that are padding.
        peak_memory_bytes: of the fullest process so far.
        """
        now, (before, tokens_before) = time.monotonic(), self._speed_mark
        ranks = self._group.ranks
        # One place a process, so that the largest is found in the same exchange as the sums.
        memory = [peak_memory() if rank == ranks.rank else 0 for rank in range(ranks.size)]
        loss, correct, count, tokens, content, computed, padded, *peaks = self._group.reduce(
            [
                self._loss,
                self._correct,
                self._count,
                self._session_tokens - tokens_before,
                self._content,
                self._computed,
                self._padded,
                *memory,
            ]
        )
        figures = {
            "loss": loss / self._steps,
            "token_accuracy": correct / count,
            "tokens_per_second": round(tokens / max(now - before, 1e-9), 1),
            "computed_tokens_share": round(computed / padded, 6),
            "padding_share": round(1 - content / computed, 6),
            "peak_memory_bytes": int(max(peaks)),
        }
        self.restart_clock()
        self._loss, self._correct, self._count, self._steps = 0.0, 0, 0, 0
        self._content = self._computed = self._padded = 0
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
        """This process's part of the next training line: loss, right tokens, tokens, steps, and the tokens that were
        computed for their content, computed at all, and would have been computed padded."""
        sums = [float(self._loss), int(self._correct), self._count, self._steps]
        return [*sums, self._content, self._computed, self._padded]

    def totals(self) -> dict[str, Any]:
        """What the next lines of the log depend on, over all processes. Collective."""
        loss, correct, count, steps, *tokens = self.window()
        sums = self._group.reduce([self._trained_tokens, self._rows_seen, loss, correct, count, *tokens])
        whole = [int(value) for value in sums]
        return {
            "seconds": self.seconds(),
            "trained_tokens": whole[0],
            "rows_seen": whole[1],
            "window": [sums[2], *whole[3:5], int(steps), *whole[5:]],
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
        # Checkpoints of earlier versions end after the steps.
        filled = [*window, 0, 0, 0][:7]
        self._loss, self._correct, self._count, self._steps = filled[:4]
        self._content, self._computed, self._padded = filled[4:]
