"""Bytes of a file in chunks, gzip and zstd undone. A broken end is told after everything before it was handed over."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from triagekit.errors import TriageError
from triagekit.files.remote import AnyPath

READ_BYTES = 1 << 16
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
    """Decompressed content of `path` from byte `start`, a chunk at a time. Raises BrokenSource after the last good chunk."""
    kind = compression_of(path)
    if kind == "gzip":
        return _behind(start, _decompressed(path, lambda: zlib.decompressobj(wbits=31), "gzip"))
    if kind == "zstd":
        return _behind(start, _decompressed(path, _zstd_decompressor(), "zstd"))
    return _plain(path, start)


def _behind(start: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if start < len(chunk):
            yield chunk[start:]
        start = max(0, start - len(chunk))


def _plain(path: AnyPath, start: int = 0) -> Iterator[bytes]:
    with path.open("rb") as handle:
        handle.seek(start)
        while True:
            try:
                block = handle.read(READ_BYTES)
            except OSError as error:
                raise BrokenSource("unreadable file", str(error.strerror)) from None
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
