"""Bytes of a file in chunks, gzip and zstd undone. A broken end is told after everything before it was handed over."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from triagekit.data.pieces import UNREADABLE
from triagekit.errors import TriageError
from triagekit.files.remote import AnyPath

READ_BYTES = 1 << 16
_KEPT_CHUNKS = 4
"""Of an unpacked file: a reader looks ahead by less."""
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class BrokenSource(Exception):
    """The source ends or breaks here; what came before is good."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def compression_of(path: AnyPath) -> str:
    """'gzip', 'zstd' or '' by the first bytes of the file (endings lie)."""
    with path.open("rb") as handle:
        start = handle.read(4)
    if start[:2] == GZIP_MAGIC:
        return "gzip"
    return "zstd" if start == ZSTD_MAGIC else ""


def byte_chunks(path: AnyPath, start: int = 0) -> Iterator[bytes]:
    """Decompressed content of `path` from byte `start`, a chunk at a time. Raises BrokenSource after the last good chunk.

    A compressed file can only be read from its beginning. Where the last one was left ahead of `start`, it is gone on with: so
    who reads one piece after the other, as an archive's workers do, unpacks the file once.
    """
    kind = compression_of(path)
    if kind == "":
        return _plain(path, start)
    if start and (left := _left_at(path, start)) is not None:
        return left.chunks(start)
    if kind == "gzip":
        return _Unpacked(path, _decompressed(path, lambda: zlib.decompressobj(wbits=31), "gzip")).chunks(start)
    return _Unpacked(path, _decompressed(path, _zstd_decompressor(), "zstd")).chunks(start)


class _Unpacked:
    """The decompressed content of a file on its way from the beginning to the end."""

    def __init__(self, path: AnyPath, chunks: Iterator[bytes]) -> None:
        self.path = path
        self._chunks = chunks
        self._end = 0
        # A reader stops inside of what it was given: the next piece begins there.
        self._last: deque[tuple[int, bytes]] = deque(maxlen=_KEPT_CHUNKS)

    def reaches(self, start: int) -> bool:
        """Whether byte `start` can still be had."""
        return start >= (self._last[0][0] if self._last else self._end)

    def chunks(self, start: int) -> Iterator[bytes]:
        """From byte `start`. What is left before its end can be gone on with."""
        try:
            for place, chunk in tuple(self._last):
                if place + len(chunk) > start:
                    yield chunk[max(0, start - place) :]
            for chunk in self._chunks:
                place, self._end = self._end, self._end + len(chunk)
                self._last.append((place, chunk))
                if self._end > start:
                    yield chunk[max(0, start - place) :]
        except GeneratorExit:
            # Who only looks at the beginning of a file goes on with nothing.
            if start:
                _left.append(self)
            raise


_left: deque[_Unpacked] = deque(maxlen=1)
"""The file that was left last before its end. It is taken to be the same file as long as it has its name: who reads shards holds
them against the fingerprints of their plan."""


def _left_at(path: AnyPath, start: int) -> _Unpacked | None:
    """The file that was left, taken out, if it is this one and not beyond `start`."""
    if not _left or str(_left[0].path) != str(path) or not _left[0].reaches(start):
        return None
    return _left.pop()


def _plain(path: AnyPath, start: int = 0) -> Iterator[bytes]:
    with path.open("rb") as handle:
        handle.seek(start)
        while True:
            try:
                block = handle.read(READ_BYTES)
            except OSError as error:
                raise BrokenSource(UNREADABLE, str(error.strerror or error)) from None
            if not block:
                return
            yield block


def _zstd_decompressor() -> Callable[[], _Decompressor]:
    try:
        import zstandard
    except ImportError:
        raise TriageError("Reading .zst files needs zstandard: pip install triagekit[data]") from None
    return lambda: zstandard.ZstdDecompressor().decompressobj()


def _decompressed(path: AnyPath, new: Callable[[], _Decompressor], kind: str) -> Iterator[bytes]:
    errors: tuple[type[Exception], ...] = (zlib.error,)
    if kind == "zstd":
        import zstandard

        errors = (zstandard.ZstdError,)
    decompressor = new()
    started = False
    for block in _plain(path):
        data = block
        while data:
            if decompressor.eof:
                # Several members after one another are one file (gzip -c a b, pzstd); zeros at the end are padding.
                if not data.strip(b"\0"):
                    break
                decompressor = new()
            started = True
            try:
                out = decompressor.decompress(data)
            except errors as error:
                raise BrokenSource(f"broken {kind}", str(error)) from None
            if out:
                yield out
            data = decompressor.unused_data if decompressor.eof else b""
    if started and not decompressor.eof:
        raise BrokenSource(f"truncated {kind}", "the compressed stream ends before its end mark")
