"""The one thread that owns the model: it loads it, then takes batch after batch out of the queue."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

from triagekit.errors import TriageError
from triagekit.service.queue import Request, TicketQueue, Turn, fail

Answer = TypeVar("Answer")
Decode = Callable[[Sequence[str]], Sequence[Answer]]
State = Literal["loading", "ready", "stopping", "failed"]

LONGEST_RETRY_SECONDS = 60
_RECENT = 0.2
"""Weight of the newest batch in the running mean of seconds a ticket."""


class BatchObserver(Protocol):
    """What is told of each batch."""

    def batch(self, tickets: int, seconds: float) -> None:
        """`tickets` were decoded together in `seconds`."""


class ModelBroken(TriageError):
    """Raised by a decoder that will answer nobody any more; it ends the service, so that a new process can be started."""


class BatchFailed(Exception):
    """The decoder raised an error for a whole batch. It says which kind, not what: messages may quote tickets."""


class Batcher(Generic[Answer]):
    """Gathers the tickets of many callers into batches for one decoder, which only its own thread ever touches."""

    def __init__(
        self,
        load: Callable[[], Decode[Answer]],
        batch_size: int,
        capacity: int,
        gather_seconds: float,
        observer: BatchObserver,
    ) -> None:
        """`load` is called once, in the batcher's thread; what it returns gives one answer a text, in order."""
        self._load = load
        self._batch_size = batch_size
        self._gather_seconds = gather_seconds
        self._observer = observer
        self._queue: TicketQueue[Answer] = TicketQueue(capacity)
        self._seconds_a_ticket = 0.0
        self._thread = threading.Thread(target=self._run, name="triage-model", daemon=True)
        self._state_lock = threading.Lock()
        self.state: State = "loading"
        self.failure: Exception | None = None
        """Why the model could not be loaded, or stopped working."""

    @property
    def depth(self) -> int:
        """Tickets that wait."""
        return self._queue.depth

    @property
    def alive(self) -> bool:
        """Whether the thread still runs: loading, decoding, or waiting."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to load; tickets may be submitted at once and wait for it."""
        self._thread.start()

    def submit(self, texts: Sequence[str]) -> Request[Answer]:
        """Queue the tickets of one caller. Raises QueueFull, ServiceClosing."""
        return self._queue.put(texts)

    def drop(self, request: Request[Answer]) -> int:
        """Forget a request whose caller has gone; the number of tickets that need not be decoded now."""
        request.future.cancel()
        return self._queue.drop(request)

    def retry_after_seconds(self) -> int:
        """When a caller who was refused should come again: the time that what waits is likely to take."""
        expected = self._queue.depth * self._seconds_a_ticket
        return max(1, min(LONGEST_RETRY_SECONDS, math.ceil(expected)))

    def close(self) -> None:
        """Take nothing in any more, finish what is queued, then end."""
        self._become("stopping", unless="failed")
        self._queue.close()

    def refuse_all(self) -> None:
        """Close, and answer what still waits with ServiceClosing."""
        self.close()
        self._queue.refuse_all()

    def join(self, seconds: float) -> bool:
        """Wait for the thread to end; whether it did."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _become(self, state: State, unless: State | None = None) -> None:
        with self._state_lock:
            if self.state != unless:
                self.state = state

    def _run(self) -> None:
        try:
            decode = self._load()
        except (
            Exception
        ) as error:  # whatever keeps a model from loading is handed to the thread that can end the process
            self._give_up(error)
            return
        self._become("ready", unless="stopping")
        while (turns := self._queue.take(self._batch_size, self._gather_seconds)) is not None:
            self._decode(decode, turns)

    def _give_up(self, error: Exception) -> None:
        self.failure = error
        self._become("failed")
        self._queue.refuse_all()

    def _decode(self, decode: Decode[Answer], turns: list[Turn[Answer]]) -> None:
        began = time.monotonic()
        try:
            answers = decode([turn.text for turn in turns])
            for turn, answer in zip(turns, answers, strict=True):
                turn.request.answer(turn.place, answer)
        except Exception as error:  # one batch must not end the service; its callers are told
            for turn in turns:
                self._queue.drop(turn.request)
                fail(turn.request.future, BatchFailed(type(error).__name__))
            if isinstance(error, ModelBroken):
                self._give_up(error)
        seconds = time.monotonic() - began
        latest = seconds / len(turns)
        old = self._seconds_a_ticket
        self._seconds_a_ticket = latest if not old else old + _RECENT * (latest - old)
        self._observer.batch(len(turns), seconds)
