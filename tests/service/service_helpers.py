"""A service with a decoder of the test's own behind a real socket, and clients that speak to it as strangers would."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from triagekit.schema import EnumField, Schema, TextField
from triagekit.service.server import GracefulServer, listen
from triagekit.service.service import TriageService
from triagekit.service.settings import ServeSettings
from triagekit.service.token import Token

SCHEMA = Schema(
    name="desk",
    title="Desk",
    description="Tickets.",
    fields=(TextField("summary", max_length=40), EnumField("category", ("Hardware", "Network"))),
)
JSON = {"Content-Type": "application/json"}


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The condition's first true value; fails the test when there is none."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "what the test waits for did not come"
        time.sleep(0.005)
    return value


class GatedDecoder:
    """Answers each text with itself, in batches that wait at a gate, and remembers the batches."""

    def __init__(self, is_open: bool = True) -> None:
        self.gate = threading.Event()
        self.batches: list[list[str]] = []
        self.error: Exception | None = None
        if is_open:
            self.gate.set()

    def __call__(self, texts: Sequence[str]) -> list[Any]:
        self.batches.append(list(texts))
        assert self.gate.wait(60)
        if self.error is not None:
            raise self.error
        return [self.answer(text) for text in texts]

    def answer(self, text: str) -> Any:
        return text


class GatedPredictor(GatedDecoder):
    """As a loaded run: the record's summary is the text."""

    def answer(self, text: str) -> Any:
        from triagekit.scoring.predictor import Prediction

        record = {"summary": text[:40], "category": "Network"}
        return Prediction(record, {"summary": 0.25, "category": 0.1234567}, "auto", (), "")


class RunningService:
    """A service on a free port of this machine, its server in a thread."""

    def __init__(self, predictor: GatedDecoder, token: Token | None, options: Mapping[str, Any]) -> None:
        self.loading = threading.Event()
        self.loading.set()

        def load(settings: ServeSettings, served: Any) -> GatedDecoder:
            assert self.loading.wait(60)
            served.schema = SCHEMA
            served.fingerprints = {"adapter": "a" * 16, "schema": SCHEMA.fingerprint}
            served.decoding = {"precision": "auto", "fields": None, "auto_at": None}
            return predictor

        settings = ServeSettings(**{"run": "runs/fake", "port": 0, "gather_milliseconds": 0, **options})
        self.service = TriageService(settings, token, load)
        self.door = listen(settings)
        self.port = self.door.getsockname()[1]
        self.server = GracefulServer(self.service)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.door]}, daemon=True)

    def start(self) -> None:
        self.service.start()
        self.thread.start()
        state = "ready" if self.loading.is_set() else "loading"
        wait_until(lambda: self.server.started and self.service.batcher.state == state)

    def request(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """One request over its own connection: status, body, headers by lower-case name."""
        return send(self.port, method, path, body, headers)

    def post(self, value: Any, headers: Mapping[str, str] | None = None) -> tuple[int, Any, dict[str, str]]:
        """Tickets, as JSON."""
        return self.request("POST", "/v1/triage", json.dumps(value), {**JSON, **(headers or {})})

    def metric(self, name: str) -> float:
        """One line of /metrics."""
        status, text, _ = self.request("GET", "/metrics")
        assert status == 200
        return metric(text, name)


def send(
    port: int, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    """One request over its own connection: status, body (read as JSON where it is some), headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    found = {name.lower(): value for name, value in answer.getheaders()}
    is_json = found.get("content-type") == "application/json"
    return answer.status, json.loads(content) if is_json else content.decode(), found


def metric(text: str, name: str) -> float:
    """The value of one line of a metrics page; 0 where it is not there."""
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " ")), 0.0)


def raw_request(body: bytes, length: int | None = None) -> bytes:
    """The bytes of a POST; `length` to declare another length than the body has."""
    head = "POST /v1/triage HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def connect(port: int) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", port), timeout=60)


@contextmanager
def background(call: Callable[[], Any]) -> Iterator[Callable[[], Any]]:
    """Run a call in a thread; what is handed out waits for its value."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(call())
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(60)
        assert found, "no answer"
        return found[0]

    yield result
    thread.join(60)


class LogLines(logging.Handler):
    """Keeps what the service logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
