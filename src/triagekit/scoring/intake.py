"""Tickets of an archive on their way to the shards: empty and repeated ones are set aside, and everything is counted."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.data.archive import Ticket, iter_tickets
from triagekit.data.pieces import Reject

if TYPE_CHECKING:
    from triagekit.scoring.job_card import Reading


@dataclass(frozen=True)
class Shard:
    """Consecutive tickets, scored as one and written as one part. `rows` are (id, text)."""

    index: int
    rows: tuple[tuple[str, str], ...]
    fingerprint: str


@dataclass
class Intake:
    """Counts of one reading. `rows_in` = `tickets` + `unchanged` + rejects."""

    tickets: int = 0
    unchanged: int = 0
    """Tickets that an earlier job has scored with the very same text."""
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def rejects(self) -> int:
        """Rows set aside, whatever the reason."""
        return sum(self.reasons.values())

    @property
    def rows_in(self) -> int:
        """All rows of the archive."""
        return self.tickets + self.unchanged + self.rejects


class SeenIds:
    """Which ids came before, exactly, in flat memory.

    A database without a name: SQLite keeps it in its page cache (64 MiB) and, beyond that, in a file that the system
    removes when the process ends. Ten million ids take some hundred MB of TMPDIR; hashes in a set would take 1 GB of
    memory, and short hashes would now and then reject a ticket that is no repeat.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("PRAGMA cache_size=-65536")
        self._database.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID")

    def add(self, identity: str, place: str) -> str | None:
        """Remember an id; the place where it came first if it is not new."""
        inserted = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (identity, place)).rowcount
        if inserted:
            return None
        found = self._database.execute("SELECT place FROM seen WHERE id = ?", (identity,)).fetchone()
        return str(found[0])

    def close(self) -> None:
        """Give the memory and the file back."""
        self._database.close()


def text_hash(text: str) -> str:
    """128 bits of SHA-256 as hex digits: whether a ticket's text is still the one that was scored."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def count_rows(archive: Path, reading: Reading) -> int:
    """Rows of the archive, bad ones included: what the progress bar runs to."""
    return sum(1 for _ in iter_tickets(archive, reading.mapping, reading.options))


def read_shards(
    archive: Path,
    reading: Reading,
    shard_rows: int,
    job_fingerprint: str,
    intake: Intake,
    reject: Callable[[dict[str, Any]], None],
    is_known: Callable[[str, str], bool] | None = None,
) -> Iterator[Shard]:
    """Shards in a fixed order; rejects are handed to `reject` as they are met. One shard is in memory at a time.

    `is_known` says of an id and the hash of its text whether they need no scoring.
    """
    rows: list[tuple[str, str]] = []
    index = 0
    for identity, text in _good_tickets(archive, reading, intake, reject, is_known):
        rows.append((identity, text))
        if len(rows) == shard_rows:
            yield Shard(index, tuple(rows), shard_fingerprint(job_fingerprint, rows))
            rows, index = [], index + 1
    if rows:
        yield Shard(index, tuple(rows), shard_fingerprint(job_fingerprint, rows))


def shard_fingerprint(job_fingerprint: str, rows: list[tuple[str, str]]) -> str:
    """Content fingerprint of a shard within its job."""
    digest = hashlib.sha256(job_fingerprint.encode())
    for pair in rows:
        for part in pair:
            content = part.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    return digest.hexdigest()[:32]


def _good_tickets(
    archive: Path,
    reading: Reading,
    intake: Intake,
    reject: Callable[[dict[str, Any]], None],
    is_known: Callable[[str, str], bool] | None,
) -> Iterator[tuple[str, str]]:
    seen = SeenIds()
    try:
        for piece in iter_tickets(archive, reading.mapping, reading.options):
            bad = piece if isinstance(piece, Reject) else _refusal(piece, seen)
            if bad is None and isinstance(piece, Ticket):
                if is_known is not None and is_known(piece.id, text_hash(piece.text)):
                    intake.unchanged += 1
                    continue
                intake.tickets += 1
                yield piece.id, piece.text
            elif bad is not None:
                intake.reasons[bad.reason] += 1
                reject(bad.to_json())
    finally:
        seen.close()


def _refusal(ticket: Ticket, seen: SeenIds) -> Reject | None:
    if not ticket.text.strip():
        return Reject(ticket.file, ticket.line, "empty text", "", id=ticket.id)
    first = seen.add(ticket.id, f"{ticket.file}:{ticket.line}")
    if first is None:
        return None
    return Reject(ticket.file, ticket.line, "repeated id", ticket.text, f"first at {first}", id=ticket.id)
