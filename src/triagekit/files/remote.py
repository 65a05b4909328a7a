"""Files of object stores and remote file systems (s3://, gs://, hdfs://, …), read like local ones through pyarrow."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from triagekit.errors import TriageError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

BUFFER_BYTES = 8 << 20
"""Fetched at once: a request to an object store takes as long as megabytes do."""
OFFLINE = "TRIAGEKIT_OFFLINE"
"""Set by --offline."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_remote(place: str) -> bool:
    """Whether `place` is a URL, not a path of this machine."""
    return _URL.match(place) is not None


def any_path(place: str) -> Path | RemotePath:
    """A path of this machine, or of the file system that a URL names.

    Credentials and addresses come from where the file system's own tools take them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
    ~/.aws, GOOGLE_APPLICATION_CREDENTIALS, HADOOP_HOME). Raises TriageError for a URL that cannot be used, and under
    --offline.
    """
    if not is_remote(place):
        return Path(place).expanduser()
    shown = shown_url(place)
    if os.environ.get(OFFLINE):
        raise TriageError(f"{shown} is on the network, but this process is offline (--offline). Leave that out.")
    try:
        import pyarrow
        from pyarrow.fs import FileSystem
    except ImportError:
        raise TriageError("Remote files need pyarrow: pip install triagekit[data]") from None
    try:
        filesystem, inner = FileSystem.from_uri(place)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise TriageError(f"{shown} cannot be used: {_first_line(error)}. Valid: s3://, gs://, hdfs://.") from None
    return RemotePath(place, filesystem, inner.rstrip("/"))


def shown_url(url: str) -> str:
    """The URL as it may stand in messages and manifests: without keys and passwords."""
    head, _, rest = url.partition("://")
    place, _, _options = rest.partition("?")
    before, at, behind = place.rpartition("@")
    return f"{head}://{behind if at and '/' not in before else place}"


def place_of(path: AnyPath) -> str:
    """What any_path makes the same path of, in another process too."""
    return path.url if isinstance(path, RemotePath) else str(path.absolute())


def place_below(path: AnyPath, folder: AnyPath) -> PurePosixPath:
    """Where `path` lies below `folder`, both of the same file system."""
    if isinstance(path, RemotePath):
        assert isinstance(folder, RemotePath)
        return path.relative_to(folder)
    assert isinstance(folder, Path)
    return PurePosixPath(path.relative_to(folder).as_posix())


class RemotePath:
    """As much of pathlib.Path as reading takes. Errors of the network are TriageErrors: a file that cannot be reached just
    now is not a broken file."""

    def __init__(self, url: str, filesystem: FileSystem, inner: str, info: FileInfo | None = None) -> None:
        """`url` as it was given, for the file or folder that the file system calls `inner`."""
        self.url = url
        self._filesystem, self._inner, self._info = filesystem, inner, info

    def __str__(self) -> str:
        return shown_url(self.url)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and (self._inner, self.url) == (other._inner, other.url)

    def __hash__(self) -> int:
        return hash((self._inner, self.url))

    def __truediv__(self, name: str) -> RemotePath:
        head, mark, options = self.url.partition("?")
        return RemotePath(f"{head.rstrip('/')}/{name}{mark}{options}", self._filesystem, f"{self._inner}/{name}")

    @property
    def name(self) -> str:
        """The last part of its place."""
        return PurePosixPath(self._inner).name

    @property
    def suffixes(self) -> list[str]:
        """`.csv`, `.gz`."""
        return PurePosixPath(self._inner).suffixes

    @property
    def parent(self) -> RemotePath:
        """The folder that it is in."""
        head, mark, options = self.url.partition("?")
        inner = str(PurePosixPath(self._inner).parent)
        return RemotePath(head.rstrip("/").rpartition("/")[0] + mark + options, self._filesystem, inner)

    def relative_to(self, folder: RemotePath) -> PurePosixPath:
        """Its place below `folder`."""
        return PurePosixPath(self._inner).relative_to(folder._inner)

    def is_file(self) -> bool:
        """Whether a file is there."""
        return bool(self._looked_up().is_file)

    def is_dir(self) -> bool:
        """Whether a folder is there; in an object store, whether anything lies below it."""
        from pyarrow.fs import FileType

        return bool(self._looked_up().type == FileType.Directory)

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies in the folder."""
        return self._listed(recursive=False)

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """Everything below the folder; `*` is the only pattern known."""
        assert pattern == "*"
        return self._listed(recursive=True)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """For reading bytes, at any place of the file."""
        assert mode == "rb"
        return io.BufferedReader(_RemoteReader(self), BUFFER_BYTES)

    def open_input(self) -> Any:
        """The file system's own handle."""
        return self._told(lambda: self._filesystem.open_input_file(self._inner))

    def write_from(self, local: Path) -> None:
        """Put a local file there: complete, or not at all."""
        import shutil

        def copy() -> None:
            # An object is there when its stream is closed; elsewhere a half-written file must not stand under its name.
            whole = self._filesystem.type_name in ("s3", "gcs", "abfs")
            place = self._inner if whole else f"{self._inner}.tmp"
            if not whole:
                self._filesystem.create_dir(str(PurePosixPath(self._inner).parent), recursive=True)
            # As it is: by itself it would compress what is called .gz once more.
            stream = self._filesystem.open_output_stream(place, compression=None)
            with local.open("rb") as source, stream as target:
                shutil.copyfileobj(source, target, BUFFER_BYTES)
            if not whole:
                self._filesystem.move(place, self._inner)

        self._told(copy)
        self._info = None

    def remove(self) -> None:
        """Remove the file, where there is one."""
        if self.is_file():
            self._told(lambda: self._filesystem.delete_file(self._inner))
            self._info = None

    def size(self) -> int | None:
        """Bytes of the file; None where there is none."""
        found = self._looked_up()
        return int(found.size) if found.is_file else None

    def modified_ns(self) -> int | None:
        """When the file was changed last, in nanoseconds since 1970; None where that is not told."""
        found: int | None = self._looked_up().mtime_ns
        return found

    def read_bytes(self) -> bytes:
        """The whole content."""
        with self.open() as handle:
            return handle.read()

    def _looked_up(self) -> FileInfo:
        if self._info is None:
            self._info = self._told(lambda: self._filesystem.get_file_info(self._inner))
        return self._info

    def _listed(self, recursive: bool) -> Iterator[RemotePath]:
        from pyarrow.fs import FileSelector

        found = self._told(lambda: self._filesystem.get_file_info(FileSelector(self._inner, recursive=recursive)))
        for info in found:
            name = PurePosixPath(info.path).relative_to(self._inner).as_posix()
            child = self / name
            yield RemotePath(child.url, self._filesystem, info.path, info)

    def _told(self, action: Any) -> Any:
        try:
            return action()
        except OSError as error:
            raise TriageError(
                f"{self} cannot be reached: {_first_line(error)} The same command goes on where it stopped."
            ) from None


class _RemoteReader(io.RawIOBase):
    """The file system's handle as Python's buffered reader wants it."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        self._handle = path.open_input()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._handle.seek(offset, whence))

    def tell(self) -> int:
        return int(self._handle.tell())

    def readinto(self, buffer: Any) -> int:
        content = self._path._told(lambda: self._handle.read(len(buffer)))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._handle.close()
        super().close()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


AnyPath = Path | RemotePath
"""A file or folder that can be read."""
