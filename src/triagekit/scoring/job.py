"""An archive scored with Ray: shards in a fixed order, one part each, and a rerun that does only what is missing."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.errors import Problem, ProblemsError
from triagekit.files.atomic import atomic_path
from triagekit.files.remote import AnyPath, any_path, place_of
from triagekit.progress import Progress, SilentProgress
from triagekit.schema.load import load_schema
from triagekit.schema.subset import select_fields
from triagekit.scoring.confidence_map import read_calibration
from triagekit.scoring.earlier import EarlierRows, earlier_job
from triagekit.scoring.intake import Intake
from triagekit.scoring.job_card import claim_folder, make_job_card, resolve_reading
from triagekit.scoring.ledger import Ledger
from triagekit.scoring.lock import folder_lock
from triagekit.scoring.manifest import MANIFEST_FILE, ScoreManifest, write_manifest
from triagekit.scoring.part_columns import check_column_names
from triagekit.scoring.partition import check_partition_column, write_partitions
from triagekit.scoring.parts import LEDGER
from triagekit.scoring.plan import Plan, PlannedShard, make_plan, read_plan
from triagekit.scoring.policy import ThresholdPolicy
from triagekit.scoring.publish import check_target, publish_scores
from triagekit.scoring.status import StatusBoard, told
from triagekit.scoring.worker import WorkerOrder

if TYPE_CHECKING:
    from triagekit.schema.schema import Schema
    from triagekit.scoring.job_card import Reading
    from triagekit.scoring.layout import WorkerLayout
    from triagekit.scoring.settings import ScoreSettings

REJECTS_FILE = "rejects.jsonl"


@dataclass(frozen=True)
class _Job:
    """Everything that was settled before the first ticket is read."""

    settings: ScoreSettings
    adapter: Path
    schema: Schema
    archive: AnyPath
    out: Path
    reading: Reading
    policy: ThresholdPolicy | None
    card: dict[str, Any]
    earlier: list[tuple[Path, dict[str, Any]]]

    def order(self, layout: WorkerLayout) -> WorkerOrder:
        """What a worker is told."""
        settings = self.settings
        return WorkerOrder(
            adapter=str(self.adapter.resolve()),
            out=str(self.out.resolve()),
            base=settings.base,
            precision=settings.precision,
            device=settings.device,
            batch_size=settings.batch_size,
            constrained=settings.constrained,
            fields=tuple(settings.fields) if settings.fields is not None else None,
            auto_threshold=settings.auto_threshold,
            threads=layout.threads,
            policy=self.policy,
            output_format=settings.output_format,
            archive=place_of(self.archive),
            reading=self.reading,
            job=str(self.card["fingerprint"]),
        )


def score_archive(settings: ScoreSettings, progress: Progress | None = None) -> ScoreManifest:
    """Score a whole archive; the same call after a kill at any moment goes on with what is missing.

    Parts are written by the workers, each in one step; the manifest comes last, when the rows add up. Raises TriageError
    for an adapter, input or folder that cannot be used, and for a full disk; ScoringInterrupted after SIGTERM or
    SIGUSR2. Parts that are written by then stay good. With `publish` the finished folder is copied to that URL.
    """
    started = time.monotonic()
    bar = progress or SilentProgress()
    job = _prepare(settings)
    job.out.mkdir(parents=True, exist_ok=True)
    with folder_lock(job.out):
        claim_folder(job.out, job.card)
        with told(StatusBoard(job.out, None)) as board:
            # A manifest stands for a finished job only: it comes back when this run has checked every part.
            (job.out / MANIFEST_FILE).unlink(missing_ok=True)
            _sweep(job.out)
            plan = _planned(job, bar, board)
            board.rows_total = plan.intake.rows_in
            board.rejects, board.unchanged = plan.intake.rejects, plan.intake.unchanged
            bar.start("scoring", plan.intake.tickets)
            ledger = Ledger(job.out, settings.output_format, bar, board)
            figures = _score_missing(job, plan, ledger)
            bar.finish()
            figures |= {"parts_kept": ledger.kept, "parts_redone": ledger.redone}
            figures["seconds"] = round(time.monotonic() - started, 3)
            manifest = _finish(job, plan.intake, ledger, figures)
            if settings.publish is not None:
                publish_scores(job.out, settings.publish, bar)
            return manifest


def _prepare(settings: ScoreSettings) -> _Job:
    """Read and check everything that is small. Nothing is written yet."""
    from triagekit.modeling.adapter_folder import read_card
    from triagekit.scoring.predictor import adapter_folder

    adapter = adapter_folder(settings.run)
    card = read_card(adapter)
    schema = load_schema(adapter / "schema.yaml")
    _check_asked_schema(settings, schema)
    if settings.fields is not None:
        schema = select_fields(schema, settings.fields)
    check_column_names(schema)
    if settings.partition_by is not None:
        check_partition_column(schema, settings.partition_by)
    if settings.publish is not None:
        check_target(settings.publish)
    policy = None if settings.auto_at is None else ThresholdPolicy(settings.auto_at, read_calibration(adapter, card))
    reading = resolve_reading(settings)
    earlier = earlier_job(settings, card)
    return _Job(
        settings=settings,
        adapter=adapter,
        schema=schema,
        archive=any_path(settings.archive),
        out=Path(settings.out).expanduser(),
        reading=reading,
        policy=policy,
        card=make_job_card(settings, card, schema, reading, policy.calibration if policy else None, earlier),
        earlier=earlier,
    )


def _planned(job: _Job, bar: Progress, board: StatusBoard) -> Plan:
    """The plan that stands, with the rejects beside it, or a new one: the archive is read once from its beginning."""
    fingerprint = str(job.card["fingerprint"])
    plan = read_plan(job.out, fingerprint)
    if plan is not None and (job.out / REJECTS_FILE).is_file():
        return plan
    bar.start("planning", None)

    def tick() -> None:
        bar.advance()
        board.tell()

    with atomic_path(job.out / REJECTS_FILE) as rejects, rejects.open("w", encoding="utf-8") as handle:

        def reject(row: dict[str, Any]) -> None:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")

        with ExitStack() as stack:
            known = stack.enter_context(closing(EarlierRows(job.earlier))).hold if job.earlier else None
            plan = make_plan(job.archive, job.reading, job.settings.shard_rows, fingerprint, reject, known, tick)
    bar.finish()
    # The rejects are complete before the plan that speaks for them.
    plan.write(job.out)
    return plan


def _score_missing(job: _Job, plan: Plan, ledger: Ledger) -> dict[str, Any]:
    """Workers are started only if some shard is missing."""
    from triagekit.scoring.layout import laid_out
    from triagekit.scoring.pool import WorkerPool
    from triagekit.scoring.stopping import StopRequest

    settings, board = job.settings, ledger.board
    missing = ledger.missing(plan.shards)
    first = next(missing, None)
    if first is None:
        return {"scored_now": 0, "workers": 0, "lost_workers": 0, "rows_per_second": None, "decoding": None}
    with laid_out(settings.workers, settings.device, settings.ray_address) as layout:
        pool = WorkerPool(
            job.order(layout),
            layout.workers,
            settings.worker_restarts,
            settings.ray_address,
            layout.gpus,
            layout.cpus,
        )

        def tick() -> None:
            board.workers, board.lost_workers = pool.table(), pool.lost_workers
            board.tell()

        with pool, StopRequest() as stop:
            pool.open()
            board.scoring_since = time.time()
            began = time.monotonic()
            for summary in pool.score(_chain(first, missing), stop, tick):
                ledger.scored(summary)
            seconds = time.monotonic() - began
            tick()
        return {
            "scored_now": board.rows_scored,
            "workers": layout.workers,
            "lost_workers": pool.lost_workers,
            "rows_per_second": round(board.rows_scored / seconds, 3) if seconds else None,
            "decoding": board.decoding,
        }


def _finish(job: _Job, intake: Intake, ledger: Ledger, figures: dict[str, Any]) -> ScoreManifest:
    settings = job.settings

    def partition(shards: list[int]) -> dict[str, Any] | None:
        if settings.partition_by is None:
            return None
        return write_partitions(
            job.out, settings.partition_by, job.schema, job.policy is not None, settings.output_format, shards
        )

    return write_manifest(
        job.out, job.archive.name, intake, ledger.summaries, ledger.tally, job.card, figures, job.policy, partition
    )


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


def _chain(first: PlannedShard, rest: Iterator[PlannedShard]) -> Iterator[PlannedShard]:
    yield first
    yield from rest
