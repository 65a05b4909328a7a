"""Is a processed data set still what its manifest says, free of leaks, and does every record fit the schema?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triagekit.data.dataset import ProcessedDataset
from triagekit.data.leak_check import leak_check
from triagekit.data.manifest import label_counts
from triagekit.data.rows import SPLITS
from triagekit.errors import ProblemsError
from triagekit.progress import Progress
from triagekit.schema.validate import validate_record

SHOWN = 20


@dataclass(frozen=True)
class VerifyReport:
    """`problems` is empty where the data set can be trusted; `leak_check` is None where files are not even readable."""

    problems: list[str]
    leak_check: dict[str, Any] | None
    counts: dict[str, int]

    @property
    def good(self) -> bool:
        return not self.problems


def verify(folder: Path, progress: Progress | None = None) -> VerifyReport:
    """Check fingerprints, ids, counts, labels and leaks. Raises TriageError only where there is no data set at all."""
    try:
        dataset = ProcessedDataset.open(folder)
    except ProblemsError as error:
        return VerifyReport([str(problem) for problem in error.problems], None, {})
    rows = {split: dataset.rows(split) for split in SPLITS}
    problems: list[str] = []
    seen: dict[str, str] = {}
    wrong = 0
    for split, split_rows in rows.items():
        expected = dataset.manifest["counts"].get(split)
        if expected != len(split_rows):
            problems.append(f"{split} has {len(split_rows)} rows; the manifest says {expected}.")
        for number, row in enumerate(split_rows, start=1):
            place = f"{split}.jsonl:{number}"
            if row.id in seen:
                problems.append(f"{place}: the id '{row.id}' stands at {seen[row.id]} too.")
            seen[row.id] = place
            for problem in validate_record(dataset.schema, row.record):
                wrong += 1
                if wrong <= SHOWN:
                    problems.append(f"{place}: {problem.field}: {problem.message}")
        if not wrong and dataset.manifest.get("labels", {}).get(split) != label_counts(dataset.schema, split_rows):
            problems.append(f"the label table of {split} in the manifest is not that of its rows.")
    if wrong > SHOWN:
        problems.append(f"… {wrong - SHOWN} more labels outside the schema.")
    threshold = float(dataset.manifest.get("leak_check", {}).get("threshold", 0.85))
    leaks = leak_check({split: [row.text for row in rows[split]] for split in SPLITS}, threshold, progress)
    found = leaks.to_json({split: [row.id for row in rows[split]] for split in SPLITS})
    for pair in found["pairs"]:
        first, second = pair["first"], pair["second"]
        problems.append(
            f"{second['split']} row '{second['id']}' stands in {first['split']} too, as '{first['id']}' "
            f"(similarity {pair['similarity']})."
        )
    if len(leaks.leaks) > len(found["pairs"]):
        problems.append(f"… {len(leaks.leaks) - len(found['pairs'])} more pairs across splits.")
    return VerifyReport(problems, found, {split: len(split_rows) for split, split_rows in rows.items()})
