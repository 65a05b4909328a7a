"""An archive cut into shards once, before any is scored: where each begins, what of it is scored, and nothing of its text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.data.archive import Ticket, TicketColumns, archive_mapper, as_ticket, check_archive
from triagekit.data.marks import Mark
from triagekit.data.parquet_reader import KeptParquet
from triagekit.data.pieces import UNREADABLE, Reject
from triagekit.data.source_settings import SourceSettings
from triagekit.data.sources import SourceFile, file_name, source_files
from triagekit.errors import TriageError
from triagekit.files.atomic import write_text
from triagekit.files.remote import AnyPath
from triagekit.scoring.intake import Intake, SeenIds, Shard, ShardDigest, text_hash

if TYPE_CHECKING:
    from triagekit.scoring.job_card import Reading

PLAN_FILE = "plan.json"


@dataclass
class Segment:
    """The part of a shard that lies in one file: `pieces` rows from `mark` (None: the file's beginning), of which the
    first `skip` are not the shard's and those in `out` (ranges of places, ends left out) are not scored."""

    file: str
    mark: Mark | None
    skip: int
    pieces: int = 0
    out: list[tuple[int, int]] = field(default_factory=list)

    def leave_out(self) -> None:
        """The piece that was counted last is not scored."""
        place = self.pieces - 1
        if self.out and self.out[-1][1] == place:
            self.out[-1] = (self.out[-1][0], place + 1)
        else:
            self.out.append((place, place + 1))


@dataclass
class PlannedShard:
    """A shard without its texts. `fingerprint` is over the ids and texts that it has when it is read."""

    index: int
    segments: list[Segment] = field(default_factory=list)
    rows: int = 0
    fingerprint: str = ""
    span: str = ""
    """Its first and its last ticket, for messages."""


@dataclass
class Plan:
    """All shards in the order of the archive, and what was counted while they were cut."""

    job: str
    intake: Intake
    shards: list[PlannedShard]

    def write(self, folder: Path) -> None:
        """Write plan.json in one step; one line a shard, so that it can be looked at."""
        head = {
            "job": self.job,
            "tickets": self.intake.tickets,
            "unchanged": self.intake.unchanged,
            "rejects": dict(sorted(self.intake.reasons.items())),
        }
        lines = [json.dumps(_shard_json(shard), ensure_ascii=False) for shard in self.shards]
        start = json.dumps(head, ensure_ascii=False, indent=2).removesuffix("\n}")
        write_text(folder / PLAN_FILE, start + ',\n  "shards": [\n' + ",\n".join(lines) + "\n]}\n")


def read_plan(folder: Path, job: str) -> Plan | None:
    """The plan that stands in the folder; None where there is none, or it is damaged or another job's: cutting the same
    archive again gives the same."""
    try:
        content = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
        if content["job"] != job:
            return None
        intake = Intake(content["tickets"], content["unchanged"], Counter(content["rejects"]))
        shards = [_shard_of(item) for item in content["shards"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if sum(shard.rows for shard in shards) != intake.tickets:
        return None
    return Plan(job, intake, shards)


def make_plans(
    archive: AnyPath,
    reading: Reading,
    shard_rows: int,
    jobs: Sequence[str],
    reject: Callable[[dict[str, Any]], None],
    is_known: Callable[[str, str], bool] | None = None,
    tick: Callable[[], None] = lambda: None,
    look: Callable[[Ticket], None] = lambda _: None,
) -> list[Plan]:
    """Read the archive once and cut it, for each of `jobs` alike; only the shards' fingerprints are the job's own.

    Rejects are handed to `reject` as they are met and the tickets that are to be scored to `look`, `tick` is called for every
    row. `is_known` says of an id and the hash of
    its text whether they need no scoring. One shard's ids and texts are hashed as they pass; none is kept but the ids, in
    SeenIds. Raises TriageError where text or id column are missing.
    """
    settings = reading.options or SourceSettings()
    mapper = archive_mapper(reading.mapping)
    check_archive(archive, mapper, settings)
    columns = TicketColumns(mapper, reading.carried)
    intake, seen = Intake(), SeenIds()
    cutter = _Cutter(shard_rows, jobs)
    try:
        for path in source_files(archive):
            source = SourceFile(path, file_name(path, archive), settings, marked=True, columns=columns)
            cutter.begin_file(file_name(path, archive))
            for piece in source:
                tick()
                ticket = as_ticket(mapper, piece, reading.carried)
                bad = ticket if isinstance(ticket, Reject) else _refusal(ticket, seen)
                scored = False
                if bad is not None:
                    intake.reasons[bad.reason] += 1
                    reject(bad.to_json())
                elif isinstance(ticket, Ticket):
                    scored = is_known is None or not is_known(ticket.id, text_hash(ticket.text))
                    intake.tickets += scored
                    intake.unchanged += not scored
                    if scored:
                        look(ticket)
                cutter.add(ticket if scored and isinstance(ticket, Ticket) else None)
                if cutter.is_between_shards:
                    cutter.note(source.mark())
    finally:
        seen.close()
    return [Plan(job, intake, shards) for job, shards in zip(jobs, cutter.finish(), strict=True)]


@dataclass(frozen=True)
class ShardRows:
    """What was read for a shard: (id, text) of each ticket, and by name the cells of the columns that are carried."""

    rows: tuple[tuple[str, str], ...]
    carried: dict[str, tuple[str | None, ...]]


def read_rows(archive: AnyPath, reading: Reading, planned: PlannedShard, kept: KeptParquet | None = None) -> ShardRows:
    """A shard's tickets, read where they lie; `kept` is of who reads shards one after the other. Raises OSError where reading
    breaks off."""
    settings = reading.options or SourceSettings()
    mapper = archive_mapper(reading.mapping)
    columns = TicketColumns(mapper, reading.carried)
    tickets: list[Ticket] = []
    for segment in planned.segments:
        path = archive if archive.is_file() else archive / segment.file
        source = SourceFile(path, segment.file, settings, start=segment.mark, columns=columns, kept=kept)
        out = {place for first, end in segment.out for place in range(first, end)}
        for place, piece in enumerate(islice(source, segment.skip, segment.skip + segment.pieces)):
            ticket = None if place in out else as_ticket(mapper, piece, reading.carried)
            if isinstance(ticket, Reject) and ticket.reason == UNREADABLE:
                # It could be read when it was planned: another try may do better.
                raise OSError(f"{segment.file} cannot be read: {ticket.detail}")
            if isinstance(ticket, Ticket):
                tickets.append(ticket)
    return ShardRows(
        rows=tuple((ticket.id, ticket.text) for ticket in tickets),
        carried={
            name: tuple(ticket.carried[place] for ticket in tickets) for place, name in enumerate(reading.carried)
        },
    )


def as_planned(archive: AnyPath, found: ShardRows, planned: PlannedShard, job: str) -> Shard:
    """The shard of one job made of what was read for it.

    Raises TriageError naming the files where that is not what the plan was made of.
    """
    digest = ShardDigest(job)
    cells = zip(*found.carried.values(), strict=True) if found.carried else repeat(())
    for (identity, text), carried in zip(found.rows, cells, strict=False):
        digest.add(identity, text, carried)
    if len(found.rows) != planned.rows or digest.value() != planned.fingerprint:
        files = ", ".join(segment.file for segment in planned.segments)
        raise TriageError(
            f"{archive}: the content of {files} is not what it was when the job was planned. Put the files back as they "
            "were, or score what is there now into another folder."
        )
    return Shard(planned.index, found.rows, planned.fingerprint, found.carried)


class _Cutter:
    """Cuts a stream of pieces into shards, and notes for each from where it can be read."""

    def __init__(self, shard_rows: int, jobs: Sequence[str]) -> None:
        self._shard_rows = shard_rows
        self._jobs = jobs
        self._done: list[list[PlannedShard]] = [[] for _ in jobs]
        self._shard = PlannedShard(0)
        self._digests = [ShardDigest(job) for job in jobs]
        self._first = self._last = ""
        self._file = ""
        self._segment: Segment | None = None
        self._mark: Mark | None = None
        self._behind_mark = 0

    @property
    def is_between_shards(self) -> bool:
        """Whether the next piece may be the first of a shard's segment."""
        return self._segment is None

    def begin_file(self, name: str) -> None:
        """The next pieces are of this file."""
        self._file, self._segment, self._mark, self._behind_mark = name, None, None, 0

    def note(self, mark: Mark | None) -> None:
        """From where the next piece would be read; None keeps the earlier mark, and counts from there."""
        if mark is not None:
            self._mark, self._behind_mark = mark, 0

    def add(self, ticket: Ticket | None) -> None:
        """The next piece: a ticket to be scored, or None."""
        if self._segment is None and ticket is not None:
            self._segment = Segment(self._file, self._mark, self._behind_mark)
            self._shard.segments.append(self._segment)
        self._behind_mark += 1
        if self._segment is None:
            return
        self._segment.pieces += 1
        if ticket is None:
            self._segment.leave_out()
            return
        self._first, self._last = self._first or ticket.id, ticket.id
        for digest in self._digests:
            digest.add(ticket.id, ticket.text, ticket.carried)
        self._shard.rows += 1
        if self._shard.rows == self._shard_rows:
            self._close()

    def finish(self) -> list[list[PlannedShard]]:
        """All shards of each job, the last one maybe smaller."""
        if self._shard.rows:
            self._close()
        return self._done

    def _close(self) -> None:
        self._shard.span = f"{self._first!r} to {self._last!r}"
        for done, digest in zip(self._done, self._digests, strict=True):
            done.append(replace(self._shard, fingerprint=digest.value()))
        self._shard = PlannedShard(self._shard.index + 1)
        self._digests = [ShardDigest(job) for job in self._jobs]
        self._segment, self._first = None, ""


def _refusal(ticket: Ticket, seen: SeenIds) -> Reject | None:
    if not ticket.text.strip():
        return Reject(ticket.file, ticket.line, "empty text", "", id=ticket.id)
    first = seen.add(ticket.id, f"{ticket.file}:{ticket.line}")
    if first is None:
        return None
    return Reject(ticket.file, ticket.line, "repeated id", ticket.text, f"first at {first}", id=ticket.id)


def _shard_json(shard: PlannedShard) -> dict[str, Any]:
    segments = [
        {**asdict(segment), "mark": None if segment.mark is None else segment.mark.to_json()}
        for segment in shard.segments
    ]
    return {**asdict(shard), "segments": segments}


def _shard_of(value: dict[str, Any]) -> PlannedShard:
    def segments() -> Iterator[Segment]:
        for item in value["segments"]:
            mark = None if item["mark"] is None else Mark.from_json(item["mark"])
            out = [(first, end) for first, end in item["out"]]
            yield Segment(item["file"], mark, item["skip"], item["pieces"], out)

    return PlannedShard(value["index"], list(segments()), value["rows"], value["fingerprint"], value["span"])
