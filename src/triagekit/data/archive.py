"""Rows of an archive to be scored as tickets: id and text, each with its place."""

from __future__ import annotations

from dataclasses import dataclass, field

from triagekit.data.collect import columns_seen, look_ahead
from triagekit.data.mapping import DataMapping, RowMapper, check_columns
from triagekit.data.pieces import RawRow, Reject
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


def archive_mapper(mapping: DataMapping | None) -> RowMapper:
    """Takes id and text of a row. Columns that a mapping names for labels need not be there.

    Without a mapping the text is the column `text` (or what a known format calls so) and the id the column `id`.
    """
    return RowMapper(_without_labels(mapping or DataMapping()))


def check_archive(path: AnyPath, mapper: RowMapper, settings: SourceSettings | None = None) -> None:
    """Look at the first rows. Raises TriageError where text or id column are missing."""
    ahead, _ = look_ahead(read_source(path, settings))
    columns, _ = columns_seen(mapper, ahead)
    if columns:
        check_columns(mapper, columns, (), "mapping")


def as_ticket(mapper: RowMapper, piece: RawRow | Reject) -> Ticket | Reject:
    """A piece of a source as a ticket; what cannot be one stays or becomes a Reject."""
    if isinstance(piece, Reject):
        return piece
    mapped = mapper.apply(piece)
    if isinstance(mapped, Reject):
        return mapped
    identity = mapped.id or f"{piece.file}:{piece.line}"
    return Ticket(identity, mapped.text, piece.line, piece.file, mapped.slices)


def _without_labels(mapping: DataMapping) -> DataMapping:
    chosen = "columns" if mapping.is_for_columns() else mapping.format
    nothing: dict[str, object] = {"labels": {}, "values": {}, "fallback": {}, "constants": {}, "tags": {}, "slices": {}}
    return mapping.model_copy(update={**nothing, "format": chosen})
