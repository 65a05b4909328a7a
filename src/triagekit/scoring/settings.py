"""Settings of an archive job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from triagekit.errors import TriageError
from triagekit.modeling.settings import ScoringPrecision
from triagekit.schema.subset import LABELS
from triagekit.scoring.part_formats import OutputFormat
from triagekit.settings import Settings

BOTH_THRESHOLDS = (
    "auto_at (calibrated confidence) and auto_threshold (the decoder's own) decide the same thing: give one of them, and "
    "null for the other"
)


class ScoreSettings(Settings):
    """What is scored, with what, to where, and how the work is spread. Those marked (fixed) are part of the job itself:
    a folder that was begun with others is not gone on with."""

    archive: str = Field(
        description="file, folder or URL (s3://, gs://, hdfs://) with tickets: CSV, TSV, JSONL, JSON, Parquet, text; also gz, zst"
    )
    run: str = Field(description="runs/<name> or an adapter folder (fixed)")
    out: str = Field(description="folder for the parts, rejects.jsonl and manifest.json")
    mapping: str | None = Field(
        default=None, description="the YAML that `data prepare` reads, or its mapping alone (fixed)"
    )
    text_column: str | None = Field(default=None, description="text column or template; before the mapping's (fixed)")
    id_column: str | None = Field(default=None, description="id column; before the mapping's (fixed)")
    carry: list[str] = Field(
        default=[],
        description="columns of the input that go into the output too, as text and under their names (fixed)",
    )
    base: str | None = Field(default=None, description="another place of the same base model; its content is checked")
    expect_schema: str | None = Field(
        default=None, description="refuse an adapter that was not trained for this schema (name or file)"
    )
    precision: ScoringPrecision = Field(default="auto", description="of the weights (fixed)")
    merged: bool | None = Field(
        default=None,
        description="adapters folded into their base, which is quicker, or beside it, so that several on one base share it; "
        "null: folded in where there is one run (fixed)",
    )
    device: str | None = Field(default=None, description="cpu or cuda; null: cuda where there is one")
    constrained: bool = Field(
        default=True, description="only valid records can be written; false: parse free text (fixed)"
    )
    fields: list[str] | None = Field(
        default=None, description="write these fields only; [labels]: all but free text; null: all (fixed)"
    )
    summary: bool = Field(default=True, description="off: no free text, as `fields: [labels]` says too (fixed)")
    auto_threshold: float | None = Field(
        default=None, ge=0, le=1, description="verdict review where a label is less sure than this (fixed)"
    )
    auto_at: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="verdict review where the calibrated chance that all labels are right is less than this (fixed)",
    )
    output_format: OutputFormat = Field(default="parquet", description="parquet, jsonl or csv (fixed)")
    partition_by: str | None = Field(
        default=None,
        description="a label field, verdict or a carried column: the rows once more in by_<column>/<column>=<value>/",
    )
    append_since: str | None = Field(
        default=None, description="folder of an earlier job: only tickets that are new or changed are scored (fixed)"
    )
    publish: str | None = Field(
        default=None,
        description="URL (s3://, gs://, hdfs://) that the finished folder is copied to, manifest.json last",
    )
    append_any: bool = Field(
        default=False, description="also after a job of another adapter, schema, base, other fields or carried columns"
    )
    shard_rows: int = Field(default=2048, ge=1, description="tickets a part holds (fixed)")
    batch_size: int = Field(default=128, ge=1, description="tickets decoded at once by one worker (fixed)")
    workers: int = Field(default=0, ge=0, description="worker processes; 0: one a GPU, or one for two CPU cores")
    worker_restarts: int = Field(
        default=3, ge=0, description="dead workers replaced, with no shard finished in between, before the job gives up"
    )
    ray_address: str | None = Field(default=None, description="address of a running Ray cluster; null: one of its own")

    @field_validator("out", "append_since")
    @classmethod
    def _a_folder(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            raise ValueError(
                f"{value} is a URL, and this must be a folder that all workers see; `publish` copies a finished job to a URL"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _labels_where_the_summary_is_off(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("fields") is None and _is_off(given.get("summary")):
            return {**given, "fields": [LABELS]}
        return given

    @model_validator(mode="after")
    def _one_threshold(self) -> ScoreSettings:
        if self.auto_at is not None and self.auto_threshold is not None:
            raise ValueError(BOTH_THRESHOLDS)
        if self.auto_at is not None and not self.constrained:
            raise ValueError("auto_at needs confidences, and unconstrained text has none: leave constrained true")
        if self.fields is not None and not self.constrained:
            raise ValueError(
                "unconstrained text knows no fields: leave constrained true, or fields null and summary on"
            )
        if not self.summary and self.fields != [LABELS]:
            raise ValueError(
                f"summary off asks for all but free text, fields for {self.fields}: leave one of them away"
            )
        if self.merged is False and self.precision == "int8":
            raise ValueError(
                "int8 rounds the weights with the adapter in them: leave merged null, or take another precision"
            )
        return self


def _is_off(summary: Any) -> bool:
    """Whether the value will be read as False; what is no truth value at all is told later, with all other mistakes."""
    try:
        return not TypeAdapter(bool).validate_python(True if summary is None else summary)
    except ValidationError:
        return False


def for_runs(settings: ScoreSettings, runs: Sequence[str]) -> list[ScoreSettings]:
    """One job a run over the same archive. A single one is `settings` as they are, several write `out`/<name of the run>.

    Raises TriageError for runs of the same name, and for what goes with a single run only.
    """
    from triagekit.scoring.adapter_place import adapter_folder

    if len(runs) == 1:
        return [settings]
    if settings.append_since is not None:
        raise TriageError("append_since knows one earlier job: score each run by itself, or leave it out.")
    named: dict[str, str] = {}
    for run in runs:
        folder = adapter_folder(run).resolve()
        name = folder.parent.name if folder.name == "adapter" else folder.name
        if name in named:
            raise TriageError(
                f"{named[name]} and {run} are both called '{name}', and each writes a folder of its name. Copy one of "
                "them to another name."
            )
        named[name] = run
    merged = settings.merged if settings.merged is not None else settings.precision == "int8"
    return [
        settings.model_copy(
            update={
                "run": run,
                "out": str(Path(settings.out) / name),
                "merged": merged,
                "publish": None if settings.publish is None else f"{settings.publish.rstrip('/')}/{name}",
            }
        )
        for name, run in named.items()
    ]
