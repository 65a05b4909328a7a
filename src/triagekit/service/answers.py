"""Responses: JSON that can always be written, and early ones that the client gets to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from triagekit.data.pieces import printable
from triagekit.service.limits import discard_rest
from triagekit.service.problems import Refusal

LINGER_SECONDS = 2.0
LINGER_BYTES = 32 * 1024 * 1024


class JsonAnswer(Response):
    """JSON in UTF-8. Halves of UTF-16 pairs, which callers can smuggle into keys, are replaced."""

    media_type = "application/json"

    def __init__(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(value, status, dict(headers or {}))

    def render(self, content: Any) -> bytes:
        """The body."""
        return printable(json.dumps(content, ensure_ascii=False, allow_nan=False)).encode("utf-8")


class RefusalAnswer(JsonAnswer):
    """An error. Where the body was not read to its end, it is read and thrown away for a moment after the answer."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.to_json(), refusal.status, refusal.headers)
        self._lingers = refusal.headers.get("connection") == "close"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole answer, then let the client finish what it is sending."""
        if not self._lingers:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await discard_rest(receive, LINGER_BYTES, LINGER_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
