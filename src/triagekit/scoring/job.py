"""An archive scored with Ray: shards in a fixed order, one part each, and a rerun that does only what is missing.

Several runs can go over one archive together: each has a folder and a job of its own, and the shards are the same.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.data.archive import Ticket
from triagekit.files.atomic import atomic_path
from triagekit.progress import Progress, SilentProgress
from triagekit.scoring.earlier import EarlierRows
from triagekit.scoring.input_files import input_files, note_input
from triagekit.scoring.intake import Intake
from triagekit.scoring.job_card import claim_folder
from triagekit.scoring.joint import JointShard
from triagekit.scoring.ledger import Ledger
from triagekit.scoring.lock import folder_lock
from triagekit.scoring.manifest import MANIFEST_FILE, ScoreManifest, write_manifest
from triagekit.scoring.partition import ValueFolders, write_partitions
from triagekit.scoring.parts import LEDGER
from triagekit.scoring.plan import Plan, make_plans, read_plan
from triagekit.scoring.prepared import PreparedJob, check_columns, prepare_job
from triagekit.scoring.publish import publish_scores
from triagekit.scoring.status import StatusBoard, told

if TYPE_CHECKING:
    from triagekit.scoring.settings import ScoreSettings

REJECTS_FILE = "rejects.jsonl"


def score_archive(settings: ScoreSettings, progress: Progress | None = None) -> ScoreManifest:
    """Score a whole archive; the same call after a kill at any moment goes on with what is missing.

    Parts are written by the workers, each in one step; the manifest comes last, when the rows add up. Raises TriageError
    for an adapter, input or folder that cannot be used, and for a full disk; ScoringInterrupted after SIGTERM or
    SIGUSR2. Parts that are written by then stay good. With `publish` the finished folder is copied to that URL.
    """
    return score_archives([settings], progress)[0]


def score_archives(many: Sequence[ScoreSettings], progress: Progress | None = None) -> list[ScoreManifest]:
    """Score one archive with several runs in one pass; each of `many` has its own run and folder, as settings.for_runs
    makes them, and gets what `score_archive` would give it. Raises what `score_archive` raises.
    """
    started = time.monotonic()
    bar = progress or SilentProgress()
    jobs = [prepare_job(settings) for settings in many]
    check_columns(jobs)
    files = input_files(many[0].archive, [job.out for job in jobs])
    jobs = [job.with_card(files) for job in jobs]
    with ExitStack() as stack:
        for job in jobs:
            job.out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(folder_lock(job.out))
        for job in jobs:
            claim_folder(job.out, job.card)
            note_input(job.out, many[0].archive, files)
        boards = [stack.enter_context(told(StatusBoard(job.out, None))) for job in jobs]
        for job in jobs:
            # A manifest stands for a finished job only: it comes back when this run has checked every part.
            (job.out / MANIFEST_FILE).unlink(missing_ok=True)
            _sweep(job.out)
        plans = _planned(jobs, bar, boards)
        for plan, board in zip(plans, boards, strict=True):
            board.rows_total = plan.intake.rows_in
            board.rejects, board.unchanged = plan.intake.rejects, plan.intake.unchanged
        bar.start("scoring", sum(plan.intake.tickets for plan in plans))
        ledgers = [
            Ledger(job.out, job.settings.output_format, bar, board) for job, board in zip(jobs, boards, strict=True)
        ]
        workers, seconds = _score_missing(jobs, plans, ledgers)
        bar.finish()
        manifests = []
        for job, plan, ledger in zip(jobs, plans, ledgers, strict=True):
            figures = {**workers, **_own_figures(ledger, seconds)}
            figures["seconds"] = round(time.monotonic() - started, 3)
            manifests.append(_finish(job, plan.intake, ledger, figures))
            if job.settings.publish is not None:
                publish_scores(job.out, job.settings.publish, bar)
        return manifests


def _planned(jobs: Sequence[PreparedJob], bar: Progress, boards: Sequence[StatusBoard]) -> list[Plan]:
    """The plans that stand, with the rejects beside them, or new ones: the archive is read once from its beginning."""
    fingerprints = [str(job.card["fingerprint"]) for job in jobs]
    found = [read_plan(job.out, fingerprint) for job, fingerprint in zip(jobs, fingerprints, strict=True)]
    standing = [plan for plan in found if plan is not None]
    if len(standing) == len(jobs) and all((job.out / REJECTS_FILE).is_file() for job in jobs):
        return standing
    bar.start("planning", None)

    def tick() -> None:
        bar.advance()
        for board in boards:
            board.tell()

    with ExitStack() as stack:
        temporary = [stack.enter_context(atomic_path(job.out / REJECTS_FILE)) for job in jobs]
        handles = [stack.enter_context(path.open("w", encoding="utf-8")) for path in temporary]

        def reject(row: dict[str, Any]) -> None:
            for handle in handles:
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")

        first = jobs[0]
        known = stack.enter_context(closing(EarlierRows(first.earlier))).hold if first.earlier else None
        shard_rows, look = first.settings.shard_rows, _partition_look(first)
        plans = make_plans(first.archive, first.reading, shard_rows, fingerprints, reject, known, tick, look)
    bar.finish()
    # The rejects are complete before the plan that speaks for them.
    for job, plan in zip(jobs, plans, strict=True):
        plan.write(job.out)
    return plans


def _partition_look(job: PreparedJob) -> Callable[[Ticket], None]:
    """Raises TriageError where the carried column that the output is split by has too many values: rather now than when all is
    scored."""
    column, carried = job.settings.partition_by, job.reading.carried
    if column is None or column not in carried:
        return lambda _: None
    folders, place = ValueFolders(column), carried.index(column)

    def look(ticket: Ticket) -> None:
        folders.of(ticket.carried[place])

    return look


def _score_missing(
    jobs: Sequence[PreparedJob], plans: Sequence[Plan], ledgers: Sequence[Ledger]
) -> tuple[dict[str, Any], float]:
    """Figures of the workers, and the seconds that they scored. They are started only if some part is missing."""
    from triagekit.scoring.layout import laid_out
    from triagekit.scoring.pool import WorkerPool
    from triagekit.scoring.stopping import StopRequest

    settings = jobs[0].settings
    missing = _missing(plans, ledgers)
    first = next(missing, None)
    if first is None:
        return {"workers": 0, "lost_workers": 0}, 0.0
    with laid_out(settings.workers, settings.device, settings.ray_address) as layout:
        pool = WorkerPool(
            [job.order(layout) for job in jobs],
            layout.workers,
            settings.worker_restarts,
            settings.ray_address,
            layout.gpus,
            layout.cpus,
        )

        def tick() -> None:
            for ledger in ledgers:
                ledger.board.workers, ledger.board.lost_workers = pool.table(), pool.lost_workers
                ledger.board.tell()

        with pool, StopRequest() as stop:
            pool.open()
            for ledger in ledgers:
                ledger.board.scoring_since = time.time()
            began = time.monotonic()
            for summary in pool.score(chain([first], missing), stop, tick):
                for number, part in summary.of_run.items():
                    ledgers[number].scored(part)
            seconds = time.monotonic() - began
            for ledger in ledgers:
                ledger.board.scoring_until = time.time()
            tick()
        return {"workers": layout.workers, "lost_workers": pool.lost_workers}, seconds


def _missing(plans: Sequence[Plan], ledgers: Sequence[Ledger]) -> Iterator[JointShard]:
    """The shards of which some run has no good part."""
    for shards in zip(*(plan.shards for plan in plans), strict=True):
        of_run = {
            number: shard
            for number, (shard, ledger) in enumerate(zip(shards, ledgers, strict=True))
            if ledger.is_missing(shard)
        }
        if of_run:
            yield JointShard(shards[0].index, shards[0].span, of_run)


def _own_figures(ledger: Ledger, seconds: float) -> dict[str, Any]:
    board = ledger.board
    return {
        "scored_now": board.rows_scored,
        "rows_per_second": round(board.rows_scored / seconds, 3) if seconds else None,
        "decoding": board.decoding,
        "parts_kept": ledger.kept,
        "parts_redone": ledger.redone,
    }


def _finish(job: PreparedJob, intake: Intake, ledger: Ledger, figures: dict[str, Any]) -> ScoreManifest:
    settings = job.settings

    def partition(shards: list[int]) -> dict[str, Any] | None:
        if settings.partition_by is None:
            return None
        return write_partitions(
            *(job.out, settings.partition_by, job.schema, job.policy is not None, settings.output_format, shards),
            carried=settings.carry,
        )

    return write_manifest(
        job.out, job.archive.name, intake, ledger.summaries, ledger.tally, job.card, figures, job.policy, partition
    )


def _sweep(out: Path) -> None:
    """Remove what a kill left half written."""
    for leftover in (*out.glob(".*.tmp"), *out.glob(".by_*.old"), *(out / LEDGER).glob(".*.tmp")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
