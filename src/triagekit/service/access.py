"""The outermost layer: counts and logs every request, and turns what nobody foresaw into a plain 500.

A log line holds route, status, times and counts. It never holds a body, a query, a header, or a path that is no route of
the service: any of them may carry a ticket's text.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from triagekit.service.answers import RefusalAnswer
from triagekit.service.metrics import Metrics
from triagekit.service.problems import Refusal

LOGGER = logging.getLogger("triagekit.service")
NOTES = "triage.notes"
CLIENT_CLOSED = 499
"""Status in log and metrics (nginx's number) where the client went away before its answer."""


def notes_of(scope: Scope) -> dict[str, Any]:
    """What the handlers want to see in the request's log line."""
    notes: dict[str, Any] = scope.setdefault(NOTES, {})
    return notes


class AccessLog:
    """Middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str], scored: str, as_json: bool) -> None:
        """`routes`: paths that may be named; `scored`: the one whose durations are measured."""
        self._app = app
        self._metrics = metrics
        self._routes = routes
        self._scored = scored
        self._as_json = as_json

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        scope["triage.began"] = began
        notes = notes_of(scope)
        status = CLIENT_CLOSED

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start" and not notes.get("gone"):
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:  # no stack trace leaves the service, and no message: it may quote a ticket
            place = traceback.extract_tb(error.__traceback__)[-1]
            LOGGER.error("unforeseen %s at %s:%s", type(error).__name__, place.filename, place.lineno)
            if status == CLIENT_CLOSED:
                refusal = Refusal(500, "internal", "The service failed on this request; its log says where.")
                await RefusalAnswer(refusal)(scope, receive, noting)
        finally:
            seconds = time.monotonic() - began
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.request(route, status, seconds, scored=route == self._scored and status == 200)
            self._log(scope, route, status, seconds, notes)

    def _log(self, scope: Scope, route: str, status: int, seconds: float, notes: dict[str, Any]) -> None:
        client = scope.get("client")
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "client": client[0] if client else "–",
            "method": scope["method"] if scope["method"] in {"GET", "POST", "HEAD", "OPTIONS"} else "other",
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1000, 1),
            **notes,
        }
        LOGGER.info(json.dumps(line) if self._as_json else " ".join(f"{key}={value}" for key, value in line.items()))
