"""The last file of an archive job: written only when every row of the input is accounted for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from triagekit import __version__
from triagekit.errors import TriageError
from triagekit.files.atomic import write_json
from triagekit.scoring.intake import Intake
from triagekit.scoring.parts import PartSummary, part_files, part_path
from triagekit.scoring.policy import ThresholdPolicy, policy_figures
from triagekit.scoring.tally import Tally

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class ScoreManifest:
    """A finished archive job. `rows_in` = `rows_out` + `rejects` + `unchanged`. `scored_now`, `seconds`
    and `decoding` (what a ticket took and what was wasted: StatusBoard.decoding) are of the last run only."""

    archive: str
    rows_in: int
    rows_out: int
    rejects: int
    unchanged: int
    reject_reasons: dict[str, int]
    verdicts: dict[str, int]
    policy: dict[str, Any] | None
    distribution: dict[str, Any]
    confidence_histogram: dict[str, list[int]]
    parts: list[dict[str, Any]]
    schema: str
    job: dict[str, Any]
    scored_now: int
    parts_kept: int
    parts_redone: list[str]
    lost_workers: int
    workers: int
    seconds: float
    rows_per_second: float | None
    decoding: dict[str, float] | None
    partitions: dict[str, Any] | None
    created: str
    triagekit: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def write_manifest(
    folder: Path,
    archive: str,
    intake: Intake,
    summaries: Sequence[PartSummary],
    tally: Tally,
    job: dict[str, Any],
    run_figures: dict[str, Any],
    policy: ThresholdPolicy | None,
    partition: Callable[[list[int]], dict[str, Any] | None],
) -> ScoreManifest:
    """Check that all rows are accounted for, let `partition` copy the shards' rows, then write manifest.json.

    Raises TriageError where a part is missing, one too many stands in the folder, or the counts do not add up.
    """
    output_format = job["output_format"]
    ordered = sorted(summaries, key=lambda item: item.shard)
    expected = list(range(len(ordered)))
    standing = sorted(part_files(folder, output_format))
    if [item.shard for item in ordered] != expected or standing != expected:
        raise TriageError(
            f"{folder}: the parts {standing[:10]}… do not match the shards 0 to {len(ordered) - 1}. "
            "Were files added or removed by hand? Run the same command again."
        )
    rows_out = sum(item.rows for item in ordered)
    if rows_out != intake.tickets:
        raise TriageError(f"{folder}: {intake.tickets} tickets went in, but the parts hold {rows_out} rows.")
    verdicts: Counter[str] = Counter()
    for item in ordered:
        verdicts.update(item.verdicts)
    manifest = ScoreManifest(
        archive=archive,
        rows_in=intake.rows_in,
        rows_out=rows_out,
        rejects=intake.rejects,
        unchanged=intake.unchanged,
        reject_reasons=dict(sorted(intake.reasons.items())),
        verdicts=dict(sorted(verdicts.items())),
        policy=policy_figures(policy, verdicts, [item.chance_of_auto for item in ordered]) if policy else None,
        parts=[
            {
                "file": part_path(folder, item.shard, output_format).name,
                "rows": item.rows,
                "fingerprint": item.fingerprint,
            }
            for item in ordered
        ],
        schema=str(job["schema"]),
        job=job,
        distribution=tally.distribution(),
        confidence_histogram=tally.histogram(),
        partitions=partition(expected),
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        triagekit=__version__,
        **run_figures,
    )
    write_json(folder / MANIFEST_FILE, manifest.to_dict())
    return manifest
