"""One service: its settings, token, counts, the model's thread, and how a request's tickets are waited for."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request as HttpRequest

from triagekit.service.access import notes_of
from triagekit.service.batcher import Batcher, BatchFailed, Decode
from triagekit.service.limits import client_gone
from triagekit.service.metrics import Metrics
from triagekit.service.model import ServedRun, load_run, run_name
from triagekit.service.problems import Refusal
from triagekit.service.queue import QueueFull, Request, ServiceClosing
from triagekit.service.settings import ServeSettings
from triagekit.service.tickets import GivenTicket
from triagekit.service.token import Token

if TYPE_CHECKING:
    from triagekit.scoring.predictor import Prediction

Load = Callable[[ServeSettings, ServedRun], "Decode[Prediction]"]


class ClientGone(Exception):
    """Nobody is left to answer."""


class TriageService:
    """What the routes share. Made in the main thread; `start` begins to load the model in its own."""

    def __init__(self, settings: ServeSettings, token: Token | None, load: Load = load_run) -> None:
        self.settings = settings
        self.token = token
        self.served = ServedRun(run_name(settings.run))
        self.metrics = Metrics()
        self.batcher: Batcher[Prediction] = Batcher(
            lambda: load(settings, self.served),
            settings.batch_size,
            settings.queue_tickets,
            settings.gather_milliseconds / 1000,
            self.metrics,
        )
        self.waiting_requests = 0
        """Requests whose tickets are queued or in the model."""
        self.metrics.gauge("ready", "1 when tickets are answered", lambda: self.batcher.state == "ready")
        self.metrics.gauge("queue_tickets", "tickets that wait for the model", lambda: self.batcher.depth)
        self.metrics.gauge("waiting_requests", "requests with tickets queued or decoded", lambda: self.waiting_requests)

    def start(self) -> None:
        """Begin to load the model."""
        self.batcher.start()

    def check_ready(self) -> None:
        """Raises Refusal 503 while the model is loaded and once the service was asked to stop."""
        state = self.batcher.state
        if state == "loading":
            raise _unavailable("loading", "The model is still being loaded.", retry_after=2)
        if state != "ready":
            raise _unavailable("stopping", "The service is stopping; nothing more is taken in.")

    def check_token(self, authorization: str | None) -> None:
        """Raises Refusal 401, the same whatever is missing or wrong."""
        if not self.is_allowed(authorization):
            raise Refusal(
                401, "unauthorized", "A valid bearer token is needed.", headers={"www-authenticate": "Bearer"}
            )

    def is_allowed(self, authorization: str | None) -> bool:
        """Whether no token is asked for, or this header carries it."""
        return self.token is None or self.token.allows(authorization.encode("latin-1") if authorization else None)

    async def answer(self, request: HttpRequest, tickets: Sequence[GivenTicket]) -> list[dict[str, Any]]:
        """The answers to all tickets, in their order.

        Raises Refusal 429 where the queue has no room, 503 when time is up or the service stops, 500 for a batch that
        failed, and ClientGone.
        """
        queued = self._submit(tickets)
        self.waiting_requests += 1
        try:
            predictions = await self._wait(request, queued)
        finally:
            self.waiting_requests -= 1
            # Whatever ended the waiting: what nobody waits for any more must not go through the model.
            if not queued.future.done():
                self.batcher.drop(queued)
        verdicts: Counter[str] = Counter(prediction.verdict for prediction in predictions)
        self.metrics.tickets(verdicts)
        return [
            self.served.answer(ticket.id, prediction) for ticket, prediction in zip(tickets, predictions, strict=True)
        ]

    def _submit(self, tickets: Sequence[GivenTicket]) -> Request[Prediction]:
        try:
            return self.batcher.submit([ticket.text for ticket in tickets])
        except QueueFull:
            seconds = self.batcher.retry_after_seconds()
            raise Refusal(
                429,
                "queue full",
                f"{self.batcher.depth} tickets wait already; the queue holds {self.settings.queue_tickets}. "
                f"Come again in {seconds} s.",
                headers={"retry-after": str(seconds)},
            ) from None
        except ServiceClosing:
            raise _unavailable("stopping", "The service is stopping; nothing more is taken in.") from None

    async def _wait(self, request: HttpRequest, queued: Request[Prediction]) -> list[Prediction]:
        left = request.scope["triage.began"] + self.settings.timeout_seconds - time.monotonic()
        result: asyncio.Future[Any] = asyncio.wrap_future(queued.future)
        gone: asyncio.Future[Any] = asyncio.ensure_future(client_gone(request))
        try:
            await asyncio.wait({result, gone}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                predictions: list[Prediction] = result.result()
                return predictions
        except BatchFailed as error:
            self.metrics.dropped("failed", len(queued.texts))
            raise Refusal(500, "batch failed", f"The model failed on a batch ({error}).") from None
        except ServiceClosing:
            self.metrics.dropped("stopping", len(queued.texts))
            raise _unavailable("stopping", "The service stopped before the tickets' turn came.") from None
        finally:
            gone.cancel()
        if gone.done() and not gone.cancelled():
            self.metrics.dropped("client gone", len(queued.texts))
            notes_of(request.scope)["gone"] = True
            raise ClientGone
        self.metrics.dropped("timeout", len(queued.texts))
        raise _unavailable(
            "timeout",
            f"No answer within {self.settings.timeout_seconds:g} s; the tickets were taken out of the queue.",
            retry_after=self.batcher.retry_after_seconds(),
            close=False,
        )


def _unavailable(reason: str, message: str, retry_after: int = 5, close: bool = True) -> Refusal:
    headers = {"retry-after": str(retry_after)} | ({"connection": "close"} if close else {})
    return Refusal(503, reason, message, headers=headers)
