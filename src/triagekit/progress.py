"""Progress of long work, as the library sees it: the command line passes a rich bar, everything else a silent one."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self


class Progress(Protocol):
    """One bar. Used as a context manager; `advance` may be called from the thread that made it only."""

    def start(self, description: str, total: int | None, unit: str = "rows") -> None:
        """Begin a bar of `total` units (None: unknown)."""

    def advance(self, count: int = 1, **figures: object) -> None:
        """Move on by `count` units; `figures` (loss, lr, …) are shown beside the bar."""

    def finish(self) -> None:
        """End the bar and leave its last line standing."""


class SilentProgress:
    """Shows nothing: the default of every library function."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def start(self, description: str, total: int | None, unit: str = "rows") -> None:
        return None

    def advance(self, count: int = 1, **figures: object) -> None:
        return None

    def finish(self) -> None:
        return None
