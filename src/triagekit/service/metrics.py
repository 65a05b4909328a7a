"""Counts and durations in the Prometheus text format, version 0.0.4 (prometheus.io, "Exposition formats")."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TICKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """How many values lie at or below each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> list[str]:
        """Cumulative buckets, sum and count."""
        result, below = [], 0
        for bound, count in zip([*self._bounds, "+Inf"], self._counts, strict=True):
            below += count
            result.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*result, f"{name}_sum {self._sum:.6f}", f"{name}_count {below}"]


class Metrics:
    """All that the service counts. Safe for the event loop and the model's thread together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._tickets: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._request_seconds = Histogram(SECONDS)
        self._batch_tickets = Histogram(TICKETS)
        self._batch_seconds = Histogram(SECONDS)
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """A value that is read when somebody asks."""
        self._gauges[name] = (description, read)

    def request(self, route: str, status: int, seconds: float, scored: bool) -> None:
        """One answered request; `scored`: it got records, so that its time says something."""
        with self._lock:
            self._requests[route, status] += 1
            if scored:
                self._request_seconds.add(seconds)

    def tickets(self, by_verdict: Mapping[str, int]) -> None:
        """Tickets that were answered."""
        with self._lock:
            self._tickets.update(by_verdict)

    def dropped(self, reason: str, count: int) -> None:
        """Tickets that were taken in and not answered."""
        with self._lock:
            self._dropped[reason] += count

    def batch(self, tickets: int, seconds: float) -> None:
        """One batch that went through the model."""
        with self._lock:
            self._batch_tickets.add(tickets)
            self._batch_seconds.add(seconds)

    def text(self) -> str:
        """The page that Prometheus reads."""
        gauges = {name: (text, read()) for name, (text, read) in self._gauges.items()}
        with self._lock:
            lines = _head("requests_total", "counter", "answered requests by route and status")
            lines += [
                f'triagekit_requests_total{{route="{route}",status="{status}"}} {count}'
                for (route, status), count in sorted(self._requests.items())
            ]
            lines += _counter("tickets_total", "answered tickets by verdict", "verdict", self._tickets)
            lines += _counter("tickets_dropped_total", "tickets taken in and not answered", "reason", self._dropped)
            for name, description, histogram in (
                ("request_seconds", "from a request to the records it got", self._request_seconds),
                ("batch_tickets", "tickets that went through the model together", self._batch_tickets),
                ("batch_seconds", "time of a batch in the model", self._batch_seconds),
            ):
                lines += _head(name, "histogram", description) + histogram.lines(f"triagekit_{name}")
        for name, (description, value) in gauges.items():
            lines += [*_head(name, "gauge", description), f"triagekit_{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, description: str) -> list[str]:
    return [f"# HELP triagekit_{name} {description}", f"# TYPE triagekit_{name} {kind}"]


def _counter(name: str, description: str, label: str, counts: Mapping[str, int]) -> list[str]:
    values = [f'triagekit_{name}{{{label}="{key}"}} {count}' for key, count in sorted(counts.items())]
    return _head(name, "counter", description) + values
