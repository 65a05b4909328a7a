"""Tickets that wait for the model: a bounded queue in which requests take turns, the one that waits longest first."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class QueueFull(Exception):
    """The tickets of a request do not fit beside those that wait."""


class ServiceClosing(Exception):
    """The service takes nothing in any more, or ended before the ticket's turn came."""


@dataclass(eq=False)
class Request(Generic[Answer]):
    """The tickets of one caller. `future` gets all answers, in the order of `texts`, or the reason why there are none."""

    texts: tuple[str, ...]
    waiting_since: float
    future: Future[list[Answer]] = field(default_factory=Future)
    taken: int = 0
    answers: dict[int, Answer] = field(default_factory=dict)

    def answer(self, place: int, value: Answer) -> None:
        """Note one answer; the last one completes the request."""
        self.answers[place] = value
        if len(self.answers) == len(self.texts):
            finish(self.future, [self.answers[number] for number in range(len(self.texts))])


@dataclass(frozen=True)
class Turn(Generic[Answer]):
    """One ticket of a request, on its way to the model."""

    request: Request[Answer]
    place: int

    @property
    def text(self) -> str:
        """The ticket."""
        return self.request.texts[self.place]


class TicketQueue(Generic[Answer]):
    """Safe for many threads that put and one that takes.

    Each turn takes one ticket of the request that has waited longest since its arrival or its last turn. So a request
    of one ticket waits for at most one ticket of every other, however many those hold.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity`: tickets that may wait."""
        self._capacity = capacity
        self._requests: deque[Request[Answer]] = deque()
        self._depth = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def depth(self) -> int:
        """Tickets that wait."""
        return self._depth

    def put(self, texts: Sequence[str]) -> Request[Answer]:
        """Queue the tickets of a request, all or none. Raises QueueFull, ServiceClosing."""
        with self._changed:
            if self._closed:
                raise ServiceClosing
            if self._depth + len(texts) > self._capacity:
                raise QueueFull
            request: Request[Answer] = Request(tuple(texts), time.monotonic())
            if texts:
                self._requests.append(request)
                self._depth += len(texts)
                self._changed.notify()
            else:
                finish(request.future, [])
            return request

    def take(self, size: int, gather_seconds: float) -> list[Turn[Answer]] | None:
        """Up to `size` tickets, as soon as there are so many or the first has waited `gather_seconds` for company.

        None once the queue is closed and empty.
        """
        with self._changed:
            while True:
                if not self._requests:
                    if self._closed:
                        return None
                    self._changed.wait()
                    continue
                left = self._requests[0].waiting_since + gather_seconds - time.monotonic()
                if self._depth >= size or self._closed or left <= 0:
                    return self._turns(size)
                self._changed.wait(left)

    def drop(self, request: Request[Answer]) -> int:
        """Take out what still waits of a request that nobody wants any more; the number of tickets."""
        with self._changed:
            if request not in self._requests:
                return 0
            self._requests.remove(request)
            waiting = len(request.texts) - request.taken
            self._depth -= waiting
            return waiting

    def close(self) -> None:
        """Take nothing in from now on; what waits can still be taken out."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def refuse_all(self) -> None:
        """Close, and tell all who wait that their turn will not come."""
        self.close()
        with self._changed:
            left, self._depth = list(self._requests), 0
            self._requests.clear()
        for request in left:
            fail(request.future, ServiceClosing())

    def _turns(self, size: int) -> list[Turn[Answer]]:
        now = time.monotonic()
        turns: list[Turn[Answer]] = []
        while self._requests and len(turns) < size:
            request = self._requests.popleft()
            turns.append(Turn(request, request.taken))
            request.taken += 1
            if request.taken < len(request.texts):
                request.waiting_since = now
                self._requests.append(request)
        self._depth -= len(turns)
        return turns


def finish(future: Future[list[Answer]], answers: list[Answer]) -> None:
    """Set a result, unless the caller has cancelled or an error came before."""
    try:
        future.set_result(answers)
    except InvalidStateError:
        return


def fail(future: Future[list[Answer]], error: Exception) -> None:
    """As `finish`, for an error."""
    try:
        future.set_exception(error)
    except InvalidStateError:
        return
