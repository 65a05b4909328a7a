"""Rows that an earlier job has scored already, so that a later one scores only what is new or changed."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.errors import Problem, ProblemsError, TriageError
from triagekit.scoring.manifest import MANIFEST_FILE
from triagekit.scoring.part_columns import Kind
from triagekit.scoring.part_formats import read_columns
from triagekit.scoring.parts import DamagedPart, read_part

if TYPE_CHECKING:
    from triagekit.scoring.settings import ScoreSettings

_SAME = {
    "adapter_fingerprint": "adapter",
    "base_fingerprint": "base model",
    "schema_fingerprint": "schema",
    "template_fingerprint": "prompt template",
    "fields": "fields",
    "carry": "carried columns",
}
_KINDS: dict[str, Kind] = {"id": "text", "text_hash": "text", "verdict": "text"}


def earlier_job(settings: ScoreSettings, card: dict[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    """The finished job of `append_since` and those it was appended to itself, newest first, with their manifests.

    Raises TriageError for a folder without a finished job, ProblemsError for one of another adapter, base, schema,
    template, other fields or carried columns unless `append_any`.
    """
    if settings.append_since is None:
        return []
    own = Path(settings.out).expanduser().resolve()
    chain: list[tuple[Path, dict[str, Any]]] = []
    place: str | None = settings.append_since
    while place is not None:
        folder = Path(place).expanduser().resolve()
        if folder == own or any(folder == known for known, _ in chain):
            raise TriageError(f"append_since: {folder} cannot come before itself. Give the folder of an earlier job.")
        manifest = _manifest(folder)
        own_prints = {
            **card,
            "adapter_fingerprint": card["fingerprint"],
            "fields": settings.fields,
            "carry": settings.carry or None,
        }
        problems = [
            Problem(what, f"there {manifest['job'].get(key)}, here {own_prints[key]}.")
            for key, what in _SAME.items()
            if manifest["job"].get(key) != own_prints[key]
        ]
        if problems and not settings.append_any:
            raise ProblemsError(
                f"{folder} was scored in another way; new rows would not go with its rows. Score the whole archive, or "
                "say append_any=true. What differs:",
                problems,
            )
        chain.append((folder, manifest))
        place = manifest["job"].get("append_folder")
    return chain


class EarlierRows:
    """Which tickets, by id and hash of the text, have a record already; in flat memory, as SeenIds."""

    def __init__(self, chain: list[tuple[Path, dict[str, Any]]]) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("PRAGMA cache_size=-65536")
        self._database.execute("CREATE TABLE earlier (id TEXT PRIMARY KEY, text_hash TEXT) WITHOUT ROWID")
        self._database.execute("BEGIN")
        # Oldest first: of a ticket that changed, the latest text counts.
        for folder, manifest in reversed(chain):
            for shard, part in enumerate(manifest["parts"]):
                self._database.executemany(
                    "INSERT OR REPLACE INTO earlier VALUES (?, ?)", _rows(folder / part["file"], shard, part)
                )

    def hold(self, identity: str, text_hash: str) -> bool:
        """Whether the ticket was scored with this very text."""
        found = self._database.execute("SELECT text_hash FROM earlier WHERE id = ?", (identity,)).fetchone()
        return found is not None and found[0] == text_hash

    def close(self) -> None:
        """Give the memory and the file back."""
        self._database.close()


def _rows(path: Path, shard: int, part: dict[str, Any]) -> list[tuple[str, str]]:
    """(id, hash) of a part's rows. One that ended in an error counts as changed: it is tried again."""
    try:
        read_part(path, shard, part["fingerprint"], part["rows"])
        columns = read_columns(path, path.suffix.removeprefix("."), _KINDS)  # type: ignore[arg-type]
    except (DamagedPart, OSError) as reason:
        raise TriageError(
            f"{path} of the earlier job cannot be trusted: {reason}. Run that job's command again."
        ) from None
    except KeyError:
        raise TriageError(f"{path} holds no hashes of the texts: it was written by an earlier triagekit.") from None
    return [
        (identity, "" if verdict == "error" else text_hash)
        for identity, text_hash, verdict in zip(*(columns[name] for name in _KINDS), strict=True)
    ]


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise TriageError(
            f"append_since: {folder} holds no finished job (no {MANIFEST_FILE}). Finish it first with its own command."
        ) from None
    except ValueError as error:
        raise TriageError(f"{path} is damaged ({error}). Run that job's command again.") from None
