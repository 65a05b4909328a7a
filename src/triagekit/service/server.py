"""The process: a socket, uvicorn on it, signals, and an end that finishes what is queued."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from triagekit.errors import TriageError
from triagekit.service.application import build_application
from triagekit.service.connection import patient_protocol
from triagekit.service.service import TriageService
from triagekit.service.settings import ServeSettings

_LAST_ANSWERS_SECONDS = 3.0
"""For refusals that are written once the grace time is over."""
_BACKLOG = 512
"""Connections that the system holds for the service until it takes them."""


class GracefulServer(uvicorn.Server):
    """Stops on the first SIGTERM or SIGINT when what is queued is done or the grace time is over; on the second at once.

    uvicorn itself would raise the signal again at the end, so that a clean stop could not be told from a kill.
    """

    def __init__(self, service: TriageService, log_as_json: bool = False) -> None:
        settings = service.settings
        config = uvicorn.Config(
            build_application(service, log_as_json),
            http=patient_protocol(settings.header_seconds),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=settings.max_connections,
            timeout_graceful_shutdown=math.ceil(settings.grace_seconds + _LAST_ANSWERS_SECONDS),
        )
        super().__init__(config)
        self._service = service
        self._stopped_at: float | None = None

    def stop(self) -> None:
        """Ask for the graceful end, from any thread or a signal handler."""
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if self._service.batcher.failure is not None:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door, let the queue run empty, refuse what is left when the grace time is over."""
        batcher, grace = self._service.batcher, self._service.settings.grace_seconds
        batcher.close()
        self._stopped_at = time.monotonic()
        refusing = asyncio.get_running_loop().call_later(grace, batcher.refuse_all)
        await super().shutdown(sockets)
        refusing.cancel()

    def seconds_left(self) -> float:
        """Of the grace time."""
        if self._stopped_at is None:
            return 0.0
        return max(0.0, self._stopped_at + self._service.settings.grace_seconds - time.monotonic())

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handlers while the server runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the first signal; end the process on the second, whatever it is doing."""
        if self.should_exit:
            os._exit(128 + sig)
        self.stop()


def listen(settings: ServeSettings) -> socket.socket:
    """A listening socket. Raises TriageError where the address cannot be had."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise TriageError(f"'{settings.host}' is no address of this machine: {error.strerror or error}.") from None
    family, kind, protocol, _, address = found[0]
    door = socket.socket(family, kind, protocol)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind(address)
        # From here on clients wait for their turn instead of being refused.
        door.listen(_BACKLOG)
    except OSError as error:
        door.close()
        raise TriageError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. "
            "Another --port may be free; --port 0 takes any that is."
        ) from None
    return door


def serve(service: TriageService, door: socket.socket, log_as_json: bool, say: Callable[[str], None]) -> None:
    """Serve until asked to stop. Raises the error that kept the model from loading or ended it.

    `say` gets one line each for: listening, ready, stopped.
    """
    server = GracefulServer(service, log_as_json)
    host, port = door.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    with server.capture_signals(), log_to_stderr():
        say(f"listening on {address}, loading {service.served.name} …")
        service.start()
        threading.Thread(target=_announce, args=(service, address, say), daemon=True).start()
        asyncio.run(server.serve(sockets=[door]))
        if service.batcher.failure is not None:
            raise service.batcher.failure
        ended = service.batcher.join(server.seconds_left())
    say("stopped" if ended else "stopped; the model was still at work")
    if not ended:
        # Python would wait for, or tear down, a thread inside torch; nothing of it is wanted any more.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _announce(service: TriageService, address: str, say: Callable[[str], None]) -> None:
    while service.batcher.state == "loading":
        time.sleep(0.05)
    if service.batcher.state == "ready":
        say(f"ready: POST {address}/v1/triage")


@contextlib.contextmanager
def log_to_stderr() -> Iterator[None]:
    """Let the service's log lines go to stderr as they are."""
    logger = logging.getLogger("triagekit.service")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # uvicorn logs stack traces and, of broken requests, nothing that this service does not log itself.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
