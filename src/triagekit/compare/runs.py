"""Runs and baselines as read from disk, with their predictions cut to the tickets that all of them share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triagekit.errors import Problem, ProblemsError, TriageError
from triagekit.evaluation.evaluate import METRICS, PREDICTIONS, read_metrics
from triagekit.evaluation.table import PredictionTable
from triagekit.schema.load import load_schema
from triagekit.schema.schema import Schema
from triagekit.training.run_folder import RunFolder


@dataclass(frozen=True)
class LoadedRun:
    """One finished and evaluated run. `config` is flat (`adapter.r`, `optimizer.learning_rate`, …) and as it was computed."""

    name: str
    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    lines: list[dict[str, Any]]
    metrics: dict[str, Any]
    table: PredictionTable
    schema: Schema

    @property
    def seed(self) -> Any:
        """The seed the run was trained with."""
        return self.config.get("seed", self.summary.get("seed"))


@dataclass(frozen=True)
class LoadedBaseline:
    """One baseline evaluated on the same data."""

    name: str
    metrics: dict[str, Any]
    table: PredictionTable


def load_runs(folders: Sequence[Path], split: str) -> list[LoadedRun]:
    """Read every run. Raises ProblemsError listing all that are unfinished, not evaluated, or of another schema."""
    problems: list[Problem] = []
    runs: list[LoadedRun] = []
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise TriageError("The same run is named twice; a run cannot be compared with itself.")
    for folder in folders:
        try:
            runs.append(_load_run(RunFolder.open(folder), split))
        except ProblemsError as error:
            problems.extend(error.problems)
        except TriageError as error:
            problems.append(Problem("", str(error)))
    if runs:
        first = runs[0]
        problems.extend(
            Problem(
                str(run.folder),
                f"has the schema {run.schema.name} ({run.schema.fingerprint}); {first.folder} has {first.schema.name} "
                f"({first.schema.fingerprint}).",
                "Records of two schemas cannot be compared field by field.",
            )
            for run in runs[1:]
            if run.schema.fingerprint != first.schema.fingerprint
        )
    if problems:
        raise ProblemsError("These runs cannot be compared:", problems)
    return runs


def load_baselines(folder: Path, split: str, data_fingerprint: str) -> tuple[list[LoadedBaseline], list[str]]:
    """Baselines below `folder` that were measured on `split` of the same data, and notes on those that were not."""
    found, notes = [], []
    for place in sorted(folder.glob(f"*/{METRICS}")):
        metrics = read_metrics(place.parent)
        name = str(metrics.get("baseline") or place.parent.name)
        if metrics.get("split") != split:
            continue
        if metrics.get("data_fingerprint") != data_fingerprint:
            notes.append(f"The baseline {name} was measured on other data and is left out.")
            continue
        found.append(LoadedBaseline(name, metrics, PredictionTable.read(place.parent / PREDICTIONS)[0]))
    return found, notes


def common_tickets(tables: Iterable[PredictionTable]) -> list[str]:
    """Ids that every table has, in the order of the first one."""
    listed = list(tables)
    shared = set.intersection(*(set(table.ids) for table in listed))
    return [identity for identity in dict.fromkeys(listed[0].ids) if identity in shared]


def on_tickets(table: PredictionTable, ids: Sequence[str]) -> PredictionTable:
    """`table` cut to `ids`, in that order."""
    if table.ids == list(ids):
        return table
    place = {identity: index for index, identity in reversed(list(enumerate(table.ids)))}
    return table.take(place[identity] for identity in ids)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            flat.update(flatten(inner, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = inner
    return flat


def _load_run(run: RunFolder, split: str) -> LoadedRun:
    if not run.is_finished:
        raise TriageError(f"{run.folder} is not finished. Go on with: triage train {run.config} --name {run.name}")
    place = run.evaluation(split)
    if not (place / METRICS).is_file() or not (place / PREDICTIONS).is_file():
        raise TriageError(
            f"{run.folder} was not evaluated on '{split}'. Do it with: triage evaluate {run.folder} --split {split}"
        )
    metrics = read_metrics(place)
    config, summary = run.settings(), run.read(run.summary)
    return LoadedRun(
        name=run.name,
        folder=run.folder,
        config=flatten(_as_computed(config, summary)),
        summary=summary,
        lines=run.metric_lines(),
        metrics=metrics,
        table=PredictionTable.read(place / PREDICTIONS)[0],
        schema=_schema(run, config),
    )


def _as_computed(settings: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what the rung of the hardware ladder made of them, where that can change the result."""
    computed = {name: value for name, value in settings.items() if name != "hardware"}
    if "quantization" in summary:
        computed["quantization"] = summary["quantization"]
    if "max_length" in summary:
        computed["prompt"] = {**computed.get("prompt", {}), "max_length": summary["max_length"]}
    return computed


def _schema(run: RunFolder, config: Mapping[str, Any]) -> Schema:
    for place in (run.adapter / "schema.yaml", Path(str(config.get("data", ""))) / "schema.yaml"):
        if place.is_file():
            return load_schema(place)
    raise TriageError(f"{run.folder} has no schema: {run.adapter / 'schema.yaml'} is missing.")
