"""What passes from an archive to the workers: shards of tickets, their fingerprints, counts, and ids seen before."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shard:
    """Consecutive tickets, scored as one and written as one part. `rows` are (id, text)."""

    index: int
    rows: tuple[tuple[str, str], ...]
    fingerprint: str
    carried: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    """Columns of the archive that go into the part as they are: name → one cell a row."""


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
        # One transaction that is never ended: with one for each id, the time grows with the square of their number.
        self._database.execute("BEGIN")

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


_NO_CELL = b"\xff" * 8
"""In the place of a length that no cell has."""


class ShardDigest:
    """Content fingerprint of a shard within its job, ticket by ticket."""

    def __init__(self, job_fingerprint: str) -> None:
        self._digest = hashlib.sha256(job_fingerprint.encode())

    def add(self, identity: str, text: str, carried: Sequence[str | None] = ()) -> None:
        """The next ticket. How many cells are carried is the job's, and in its fingerprint."""
        for part in (identity, text, *carried):
            if part is None:
                self._digest.update(_NO_CELL)
                continue
            content = part.encode("utf-8", "surrogatepass")
            self._digest.update(len(content).to_bytes(8, "little"))
            self._digest.update(content)

    def value(self) -> str:
        """32 hex digits over all that was added."""
        return self._digest.hexdigest()[:32]
