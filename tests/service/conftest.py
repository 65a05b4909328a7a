"""Services that run for one test each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from service_helpers import GatedPredictor, LogLines, RunningService

from triagekit.service.token import Token


@pytest.fixture
def run_service() -> Iterator[Callable[..., RunningService]]:
    """Start a service with settings of the test's own; it is stopped after the test."""
    running: list[tuple[RunningService, GatedPredictor]] = []

    def start(predictor: GatedPredictor | None = None, token: Token | None = None, **options: Any) -> RunningService:
        predictor = predictor or GatedPredictor()
        service = RunningService(predictor, token, options)
        running.append((service, predictor))
        service.start()
        return service

    yield start
    for service, predictor in running:
        predictor.gate.set()
        service.server.stop()
        service.thread.join(60)
        assert not service.thread.is_alive() and service.service.batcher.join(60)


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """Lines that the service logs while the test runs."""
    logger, handler = logging.getLogger("triagekit.service"), LogLines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)
