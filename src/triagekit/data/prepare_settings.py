"""What `triage data prepare` is told: source, schema, mapping, duplicates, split."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from triagekit.data.mapping import DataMapping
from triagekit.data.source_settings import SourceSettings
from triagekit.data.split_settings import SplitSettings
from triagekit.settings import Settings


class DuplicateSettings(Settings):
    """Equal and nearly equal texts."""

    mode: Literal["drop-exact", "keep"] = Field(
        default="drop-exact", description="drop-exact: of equal texts with equal labels one stays (the rest is listed)"
    )
    threshold: float = Field(default=0.85, gt=0.3, le=1, description="Jaccard similarity of word 3-shingles")
    conflicts: Literal["keep", "drop"] = Field(
        default="keep", description="equal texts with different labels: keep all (listed in conflicts.jsonl) or none"
    )


class PrepareSettings(Settings):
    """One YAML of configs/data/."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(min_length=1, description="name of the processed data set")
    source: str | None = Field(default=None, description="file or folder; usually given as --source")
    schema_name: str = Field(alias="schema", description="shipped schema name, or path of a schema YAML")
    reading: SourceSettings = SourceSettings()
    mapping: DataMapping = DataMapping()
    duplicates: DuplicateSettings = DuplicateSettings()
    split: SplitSettings = SplitSettings()
