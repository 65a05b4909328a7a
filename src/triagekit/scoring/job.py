"""An archive scored with Ray: shards in a fixed order, one part each, and a rerun that does only what is missing."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.errors import Problem, ProblemsError
from triagekit.files.atomic import atomic_path
from triagekit.progress import Progress, SilentProgress
from triagekit.schema.load import load_schema
from triagekit.scoring.intake import Intake, Shard, count_rows, read_shards
from triagekit.scoring.job_card import claim_folder, make_job_card, resolve_reading
from triagekit.scoring.lock import folder_lock
from triagekit.scoring.manifest import MANIFEST_FILE, ScoreManifest, write_manifest
from triagekit.scoring.part_columns import check_column_names
from triagekit.scoring.part_formats import OutputFormat
from triagekit.scoring.partition import check_partition_column, write_partitions
from triagekit.scoring.parts import LEDGER, DamagedPart, PartSummary, part_path, read_part, remove_part
from triagekit.scoring.policy import ThresholdPolicy
from triagekit.scoring.worker import WorkerOrder

if TYPE_CHECKING:
    from triagekit.schema.schema import Schema
    from triagekit.scoring.job_card import Reading
    from triagekit.scoring.settings import ScoreSettings

REJECTS_FILE = "rejects.jsonl"


@dataclass
class _Ledger:
    """What is known of the parts: those that stand, those to be done again, and why."""

    folder: Path
    output_format: OutputFormat
    bar: Progress
    summaries: list[PartSummary] = field(default_factory=list)
    redone: list[str] = field(default_factory=list)
    kept: int = 0

    def missing(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """The shards without a good part; a part that cannot be trusted is removed first."""
        for shard in shards:
            path = part_path(self.folder, shard.index, self.output_format)
            if not path.exists():
                yield shard
                continue
            try:
                self.summaries.append(read_part(path, shard.index, shard.fingerprint, len(shard.rows)))
            except DamagedPart as reason:
                self.redone.append(f"{path.name}: {reason}")
                remove_part(path)
                yield shard
            else:
                self.kept += 1
                self.bar.advance(len(shard.rows))


def score_archive(settings: ScoreSettings, progress: Progress | None = None) -> ScoreManifest:
    """Score a whole archive; the same call after a kill at any moment goes on with what is missing.

    Parts are written by the workers, each in one step; the manifest comes last, when the rows add up. Raises TriageError
    for an adapter, input or folder that cannot be used, ScoringInterrupted after SIGTERM or SIGUSR2; parts that are
    written by then stay good.
    """
    from triagekit.modeling.adapter_folder import read_card
    from triagekit.scoring.confidence_map import read_calibration
    from triagekit.scoring.predictor import adapter_folder

    started = time.monotonic()
    bar = progress or SilentProgress()
    adapter = adapter_folder(settings.run)
    card = read_card(adapter)
    schema = load_schema(adapter / "schema.yaml")
    _check_asked_schema(settings, schema)
    check_column_names(schema)
    if settings.partition_by is not None:
        check_partition_column(schema, settings.partition_by)
    reading = resolve_reading(settings)
    archive = Path(settings.archive).expanduser()
    out = Path(settings.out).expanduser()
    policy = None if settings.auto_at is None else ThresholdPolicy(settings.auto_at, read_calibration(adapter, card))
    job = make_job_card(settings, card, schema, reading, policy.calibration if policy else None)
    total = count_rows(archive, reading) if progress else None
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        claim_folder(out, job)
        # A manifest stands for a finished job only: it comes back when this run has checked every part.
        (out / MANIFEST_FILE).unlink(missing_ok=True)
        _sweep(out)
        bar.start("scoring", total)
        ledger = _Ledger(out, settings.output_format, bar)
        intake = Intake()
        with atomic_path(out / REJECTS_FILE) as rejects:
            figures = _score_missing(settings, adapter, out, archive, reading, job, intake, ledger, rejects, policy)
        bar.finish()
        seconds = time.monotonic() - started
        figures |= {
            "parts_kept": ledger.kept,
            "parts_redone": ledger.redone,
            "seconds": round(seconds, 3),
        }
        partition = None
        if settings.partition_by is not None:
            partition = partial(
                write_partitions, out, settings.partition_by, schema, policy is not None, settings.output_format
            )
        return write_manifest(
            out, archive.name, intake, ledger.summaries, job, figures, policy, settings.output_format, partition
        )


def _score_missing(
    settings: ScoreSettings,
    adapter: Path,
    out: Path,
    archive: Path,
    reading: Reading,
    job: dict[str, Any],
    intake: Intake,
    ledger: _Ledger,
    rejects: Path,
    policy: ThresholdPolicy | None,
) -> dict[str, Any]:
    """Read the archive once from its beginning; workers are started only if some shard is missing."""
    from triagekit.scoring.pool import WorkerPool, laid_out
    from triagekit.scoring.stopping import StopRequest

    with rejects.open("w", encoding="utf-8") as handle:

        def reject(row: dict[str, Any]) -> None:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
            ledger.bar.advance()

        shards = read_shards(archive, reading, settings.shard_rows, str(job["fingerprint"]), intake, reject)
        missing = ledger.missing(shards)
        first = next(missing, None)
        if first is None:
            return {"scored_now": 0, "workers": 0, "lost_workers": 0, "rows_per_second": None}
        with laid_out(settings.workers, settings.device, settings.ray_address) as layout:
            order = WorkerOrder(
                adapter=str(adapter.resolve()),
                out=str(out.resolve()),
                base=settings.base,
                precision=settings.precision,
                device=settings.device,
                batch_size=settings.batch_size,
                constrained=settings.constrained,
                auto_threshold=settings.auto_threshold,
                threads=layout.threads,
                policy=policy,
                output_format=settings.output_format,
            )
            scored = 0
            pool = WorkerPool(
                order, layout.workers, settings.worker_restarts, settings.ray_address, layout.gpus, layout.cpus
            )
            with pool, StopRequest() as stop:
                pool.open()
                began = time.monotonic()
                for summary in pool.score(_chain(first, missing), stop):
                    ledger.summaries.append(summary)
                    scored += summary.rows
                    ledger.bar.advance(summary.rows, review=_share(ledger.summaries, "review"))
                seconds = time.monotonic() - began
            return {
                "scored_now": scored,
                "workers": layout.workers,
                "lost_workers": pool.lost_workers,
                "rows_per_second": round(scored / seconds, 3) if seconds else None,
            }


def _check_asked_schema(settings: ScoreSettings, schema: Schema) -> None:
    if settings.expect_schema is None:
        return
    asked = load_schema(settings.expect_schema)
    if asked.fingerprint != schema.fingerprint:
        raise ProblemsError(
            f"{settings.run} was not trained for what is asked:",
            [
                Problem(
                    "schema",
                    f"the adapter's is '{schema.name}' ({schema.fingerprint}), asked is '{asked.name}' "
                    f"({asked.fingerprint}).",
                    "Train an adapter for this schema, or leave the schema out.",
                )
            ],
        )


def _sweep(out: Path) -> None:
    """Remove what a kill left half written."""
    for leftover in (*out.glob(".*.tmp"), *out.glob(".by_*.old"), *(out / LEDGER).glob(".*.tmp")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def _chain(first: Shard, rest: Iterator[Shard]) -> Iterator[Shard]:
    yield first
    yield from rest


def _share(summaries: list[PartSummary], verdict: str) -> str:
    rows = sum(item.rows for item in summaries)
    return f"{sum(item.verdicts.get(verdict, 0) for item in summaries) / rows:.1%}" if rows else "–"
