"""Rows of an archive to be scored as tickets: id and text, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from triagekit.data.cleaning import as_text
from triagekit.data.collect import columns_seen, look_ahead
from triagekit.data.mapping import DataMapping, RowMapper, check_columns, columns_of
from triagekit.data.pieces import RawRow, Reject
from triagekit.data.prior_formats import recognise_names
from triagekit.data.source_settings import SourceSettings
from triagekit.data.sources import read_source
from triagekit.files.remote import AnyPath


@dataclass(frozen=True)
class Ticket:
    """An unlabelled ticket. `id` is `file:line` where the archive has no id column; ids are not checked for repeats."""

    id: str
    text: str
    line: int
    file: str
    slices: dict[str, str] = field(default_factory=dict)
    carried: tuple[str | None, ...] = ()
    """Cells of the columns that are carried along, as text; None where the row has none."""


def archive_mapper(mapping: DataMapping | None) -> RowMapper:
    """Takes id and text of a row. Columns that a mapping names for labels need not be there.

    Without a mapping the text is the column `text` (or what a known format calls so) and the id the column `id`.
    """
    return RowMapper(_without_labels(mapping or DataMapping()))


class TicketColumns:
    """Which columns of a table are read, as a parquet_reader.ColumnChoice: those of the id and the text, and those `carried`.

    All are read where the rows may be in a format that is recognised by the columns that they have.
    """

    def __init__(self, mapper: RowMapper, carried: Sequence[str] = ()) -> None:
        mapping = mapper.mapping
        self._rename = mapping.rename
        self._needed = {mapping.id or "id", *columns_of(mapping.text or "text"), *carried}
        self._flattened = mapping.format not in ("auto", "columns")
        self._recognised = not mapping.is_for_columns()
        self.offered: dict[str, None] = {}
        """The columns of all files so far, as they are renamed."""

    def __call__(self, present: Sequence[str]) -> list[str] | None:
        """Those to be read of the columns that a file has; None for all."""
        renamed = {name: self._rename.get(name, name) for name in present}
        self.offered |= dict.fromkeys(renamed.values())
        chosen = [name for name, known_as in renamed.items() if known_as in self._needed]
        in_known_format = self._recognised and (recognise_names(present) or recognise_names(chosen))
        repeated = len(renamed) < len(present)
        return None if self._flattened or in_known_format or repeated or not chosen else chosen


def archive_columns(path: AnyPath, mapper: RowMapper, settings: SourceSettings | None = None) -> list[str]:
    """The columns of the first rows, as the mapping renames them; none where there are no rows."""
    choice = TicketColumns(mapper)
    ahead, _ = look_ahead(read_source(path, settings, choice))
    columns, _ = columns_seen(mapper, ahead)
    return list(dict.fromkeys([*columns, *choice.offered])) if columns else []


def check_archive(path: AnyPath, mapper: RowMapper, settings: SourceSettings | None = None) -> list[str]:
    """Look at the first rows; the columns that they have. Raises TriageError where text or id column are missing."""
    columns = archive_columns(path, mapper, settings)
    if columns:
        check_columns(mapper, columns, (), "mapping")
    return columns


def as_ticket(mapper: RowMapper, piece: RawRow | Reject, carried: Sequence[str] = ()) -> Ticket | Reject:
    """A piece of a source as a ticket, with the cells of the `carried` columns; what cannot be one stays or becomes a Reject."""
    if isinstance(piece, Reject):
        return piece
    mapped = mapper.apply(piece)
    if isinstance(mapped, Reject):
        return mapped
    identity = mapped.id or f"{piece.file}:{piece.line}"
    cells = tuple(as_text(mapped.values.get(name)) or None for name in carried)
    return Ticket(identity, mapped.text, piece.line, piece.file, mapped.slices, cells)


def _without_labels(mapping: DataMapping) -> DataMapping:
    chosen = "columns" if mapping.is_for_columns() else mapping.format
    nothing: dict[str, object] = {"labels": {}, "values": {}, "fallback": {}, "constants": {}, "tags": {}, "slices": {}}
    return mapping.model_copy(update={**nothing, "format": chosen})
