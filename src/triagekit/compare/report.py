"""From run folders to one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triagekit.compare.comparison import Comparison, compare, find_baselines
from triagekit.compare.design import UNPLANNED, Design
from triagekit.compare.page import render_page
from triagekit.compare.runs import LoadedBaseline, load_baselines, load_runs
from triagekit.errors import TriageError
from triagekit.evaluation.evaluate import METRICS, evaluate_run
from triagekit.evaluation.intervals import RESAMPLES
from triagekit.files.atomic import write_text
from triagekit.progress import Progress
from triagekit.training.run_folder import RunFolder


def compare_runs(
    runs: Sequence[Path],
    out: Path | None = None,
    baselines: bool | Path = True,
    split: str = "test",
    title: str | None = None,
    command: str | None = None,
    evaluate: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
    design: Design = UNPLANNED,
) -> dict[str, Any]:
    """Compare finished, evaluated runs; write the report to `out` (None: no report); return every figure.

    `baselines`: True takes those beside the first run's data, a path those of that data set, False none.
    `evaluate` measures runs that were not evaluated on `split` yet. `design` says what was planned.
    Raises ProblemsError listing every run that is unfinished, not evaluated or of another schema, each with the command
    that mends it.
    """
    comparison = load_comparison(runs, baselines, split, evaluate, resamples, seed, progress, design)
    created = datetime.now(UTC).astimezone()
    result = {"created": created.isoformat(timespec="seconds"), **comparison.to_json(), "report": None}
    if out is not None:
        shown = " and ".join(
            [", ".join(method.name for method in comparison.methods[:-1]), comparison.methods[-1].name]
        )
        heading = title or f"{shown.removeprefix(' and ')}: {comparison.schema.title or comparison.schema.name}"
        write_text(out, render_page(comparison, heading, created, command or _command(runs, out, split)))
        result["report"] = str(out)
    return result


def load_comparison(
    runs: Sequence[Path],
    baselines: bool | Path = True,
    split: str = "test",
    evaluate: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
    design: Design = UNPLANNED,
) -> Comparison:
    """As `compare_runs`, without writing anything but missing evaluations: for notebooks."""
    if not runs:
        raise TriageError(
            "No run was named. Example: triage compare runs/lora-seed1 runs/hybrid-seed1 --out report.html"
        )
    if evaluate:
        for folder in runs:
            if not (RunFolder.open(folder).evaluation(split) / METRICS).is_file():
                evaluate_run(Path(folder), split=split, progress=progress)
    loaded = load_runs([Path(folder) for folder in runs], split)
    found: list[LoadedBaseline] = []
    notes: list[str] = []
    if baselines is not False:
        place = find_baselines(loaded[0], baselines if isinstance(baselines, Path) else None)
        if place is None:
            data = loaded[0].config.get("data", "DATA")
            notes = [
                f"No baseline was measured, so nothing here says whether a simple model would do: triage baseline {data}"
            ]
        else:
            fingerprint = str(loaded[0].metrics.get("data_fingerprint") or loaded[0].summary.get("data_fingerprint"))
            found, notes = load_baselines(place, split, fingerprint)
    return compare(loaded, found, split, notes, resamples, seed, design)


def _command(runs: Sequence[Path], out: Path, split: str) -> str:
    import shlex

    return shlex.join(["triage", "compare", *map(str, runs), "--split", split, "--out", str(out)])
