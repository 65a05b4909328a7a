"""Taking a body in: type, length and time are bounded before anything is parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request

from triagekit.service.problems import BodyProblem, Refusal, shown


def check_content(headers: Mapping[str, str]) -> None:
    """Raises Refusal 415 for anything but plain JSON. Browsers then may not send it across sites without asking."""
    kind, _, parameters = headers.get("content-type", "").partition(";")
    charset = _parameter(parameters, "charset")
    encoding = headers.get("content-encoding", "identity").strip().lower()
    problems = []
    if kind.strip().lower() != "application/json" or charset not in {"", "utf-8", "utf8"}:
        given = shown(headers["content-type"]) if "content-type" in headers else "no content type"
        problems.append(BodyProblem("header Content-Type", given, "application/json, in UTF-8"))
    if encoding != "identity":
        problems.append(BodyProblem("header Content-Encoding", shown(encoding), "an uncompressed body"))
    if problems:
        raise Refusal(415, "content type", "The body's type is not what this service reads.", problems)


async def read_body(request: Request, most_bytes: int, seconds: float) -> bytes:
    """The body. Raises Refusal 413 as soon as it is known to be too long, 408 when it takes too long to come, and
    ClientDisconnect when the client goes away."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > most_bytes:
        raise _too_large(f"{int(declared[:20]):,} bytes declared", most_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > most_bytes:
                    raise _too_large(f"more than {most_bytes:,} bytes", most_bytes)
    except TimeoutError:
        raise Refusal(
            408, "body timeout", f"The body did not come within {seconds:g} s.", headers={"connection": "close"}
        ) from None
    return bytes(body)


async def client_gone(request: Request) -> None:
    """Returns when the client closes its connection. For use after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def discard_rest(receive: Any, most_bytes: int, seconds: float) -> None:
    """Read on for a moment after an early answer: closing on unread bytes would destroy the answer on its way."""
    left = most_bytes
    try:
        async with asyncio.timeout(seconds):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return


def _too_large(given: str, most_bytes: int) -> Refusal:
    problem = BodyProblem("$", given, f"at most {most_bytes:,} bytes")
    return Refusal(413, "too large", "The body is too large.", [problem], {"connection": "close"})


def _parameter(parameters: str, name: str) -> str:
    for part in parameters.split(";"):
        key, _, value = part.partition("=")
        if key.strip().lower() == name:
            return value.strip().strip('"').lower()
    return ""


__all__ = ["ClientDisconnect", "check_content", "client_gone", "discard_rest", "read_body"]
