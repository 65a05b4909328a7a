"""What a job knows of its parts while it runs: those that stand, those to be done again, and what they hold together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from triagekit.progress import Progress
from triagekit.scoring.part_formats import OutputFormat
from triagekit.scoring.parts import DamagedPart, PartSummary, part_path, read_part, remove_part
from triagekit.scoring.plan import PlannedShard
from triagekit.scoring.status import StatusBoard
from triagekit.scoring.tally import Tally


@dataclass
class Ledger:
    """Filled part by part; the counts inside a part are added up, and not kept a part: there may be thousands."""

    folder: Path
    output_format: OutputFormat
    bar: Progress
    board: StatusBoard
    summaries: list[PartSummary] = field(default_factory=list)
    redone: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    kept: int = 0

    def is_missing(self, shard: PlannedShard) -> bool:
        """Whether the shard has no good part; a part that cannot be trusted is removed first."""
        path = part_path(self.folder, shard.index, self.output_format)
        if not path.exists():
            return True
        try:
            summary = read_part(path, shard.index, shard.fingerprint, shard.rows)
        except DamagedPart as reason:
            self.redone.append(f"{path.name}: {reason}")
            self.board.parts_redone += 1
            remove_part(path)
            return True
        self.kept += 1
        self.board.rows_kept += summary.rows
        self._take(summary)
        self.bar.advance(summary.rows)
        self.board.tell()
        return False

    def scored(self, summary: PartSummary) -> None:
        """A part that a worker has just written."""
        self.board.rows_scored += summary.rows
        self.board.work.update(summary.work)
        self._take(summary)
        self.bar.advance(summary.rows, **self.board.figures())

    def _take(self, summary: PartSummary) -> None:
        self.tally.add(summary.tally)
        self.summaries.append(replace(summary, tally={}, work={}))
        self.board.errors += summary.verdicts.get("error", 0)
        self.board.review += summary.verdicts.get("review", 0)
