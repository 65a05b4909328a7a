"""Places inside a file from which reading can go on without what came before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from triagekit.data.encodings import is_single_byte

_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


@dataclass(frozen=True)
class Mark:
    """A place between two pieces of a file, with what a reader has learnt of the file by then.

    `line` is the number of the next line (of the next row in Parquet), `offset` its first byte, counted in the
    decompressed content. `depth` is that of a JSON text whose objects do not stand on lines, None for lines.
    """

    line: int
    offset: int = 0
    encoding: str = "utf-8"
    fallback: str | None = None
    carriage: bool = False
    depth: int | None = None
    delimiter: str | None = None
    columns: tuple[str, ...] | None = None
    rows: int = 0
    id_like: bool = True

    def to_json(self) -> dict[str, Any]:
        """JSON form, without what is as by default."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Mark(0), name)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Mark:
        """The mark that to_json wrote."""
        columns = value.get("columns")
        return Mark(**{"line": 0, **value, "columns": None if columns is None else tuple(columns)})


def byte_counter(encoding: str) -> Callable[[str], int] | None:
    """How many bytes a text was decoded from; None for encodings in which that cannot be told from the text."""
    plain = encoding.lower().replace("_", "-")
    if plain == "utf-8":
        return lambda text: len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
    if plain in _WIDE:
        return lambda text: len(text.encode(plain, "surrogatepass"))
    return len if is_single_byte(encoding) else None
