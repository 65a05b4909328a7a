"""An archive job as it is settled before the first ticket is read: all that is small is read and checked, nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.data.archive import archive_mapper, check_archive
from triagekit.errors import Problem, ProblemsError
from triagekit.files.remote import AnyPath, any_path, place_of
from triagekit.schema.load import load_schema
from triagekit.schema.subset import select_fields
from triagekit.scoring.carried import check_carried
from triagekit.scoring.earlier import earlier_job
from triagekit.scoring.job_card import JOB_FILE, make_job_card, resolve_reading
from triagekit.scoring.part_columns import check_column_names
from triagekit.scoring.partition import check_partition_column
from triagekit.scoring.policy import ThresholdPolicy
from triagekit.scoring.publish import check_target
from triagekit.scoring.worker import WorkerOrder

if TYPE_CHECKING:
    from triagekit.schema.schema import Schema
    from triagekit.scoring.input_files import InputFile
    from triagekit.scoring.job_card import Reading
    from triagekit.scoring.layout import WorkerLayout
    from triagekit.scoring.settings import ScoreSettings


@dataclass(frozen=True)
class PreparedJob:
    """Everything that was settled before the first ticket is read."""

    settings: ScoreSettings
    adapter: Path
    schema: Schema
    archive: AnyPath
    out: Path
    reading: Reading
    policy: ThresholdPolicy | None
    adapter_card: dict[str, Any]
    earlier: list[tuple[Path, dict[str, Any]]]
    card: dict[str, Any] = field(default_factory=dict)
    """What the job is made of: known when the content of the input is."""

    def with_card(self, files: Sequence[InputFile]) -> PreparedJob:
        """`files` as input_files.input_files gives them."""
        calibration = self.policy.calibration if self.policy else None
        card = make_job_card(
            self.settings, self.adapter_card, self.schema, self.reading, files, calibration, self.earlier
        )
        return replace(self, card=card)

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
            merged=settings.merged is not False,
        )


def prepare_job(settings: ScoreSettings) -> PreparedJob:
    """Read and check everything that is small. Nothing is written yet."""
    from triagekit.modeling.adapter_folder import read_card
    from triagekit.scoring.adapter_place import adapter_folder

    adapter = adapter_folder(settings.run)
    card = read_card(adapter)
    schema = load_schema(adapter / "schema.yaml")
    _check_asked_schema(settings, schema)
    if settings.fields is not None:
        schema = select_fields(schema, settings.fields)
    check_column_names(schema)
    if settings.partition_by is not None:
        check_partition_column(schema, settings.partition_by, settings.carry)
    if settings.publish is not None:
        check_target(settings.publish)
    policy = None
    if settings.auto_at is not None:
        policy = ThresholdPolicy.of_run(
            adapter, settings.auto_at, settings.precision, settings.fields, merged=settings.merged is not False
        )
    return PreparedJob(
        settings=settings,
        adapter=adapter,
        schema=schema,
        archive=any_path(settings.archive),
        out=Path(settings.out).expanduser(),
        reading=resolve_reading(settings),
        policy=policy,
        adapter_card=card,
        earlier=earlier_job(settings, card),
    )


def check_columns(jobs: Sequence[PreparedJob]) -> None:
    """Raises ProblemsError for columns that are not there or cannot be carried, while no folder is a job's yet: mended, the same
    command works."""
    first = jobs[0]
    present: list[str] = []
    if not all((job.out / JOB_FILE).exists() for job in jobs):
        present = check_archive(first.archive, archive_mapper(first.reading.mapping), first.reading.options)
    check_carried(first.reading.carried, [job.schema for job in jobs], present)


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
