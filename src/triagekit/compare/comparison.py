"""Everything a report says, computed once: methods, estimates, tests, conditions, notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triagekit.compare.conditions import Conditions, check_conditions
from triagekit.compare.design import UNPLANNED, Design
from triagekit.compare.macro_f1 import method_macro_f1, one_label_fields
from triagekit.compare.methods import EXACT_MATCH, Method, baseline_method, group_runs
from triagekit.compare.paired import PairedTest, compare_against, compare_pairs, scores_of, statements
from triagekit.compare.runs import LoadedBaseline, LoadedRun, common_tickets
from triagekit.compare.statistics import Mean, sampled_mean, seed_mean
from triagekit.errors import TriageError
from triagekit.evaluation.calibration import calibration
from triagekit.evaluation.evaluate import data_folder
from triagekit.evaluation.intervals import RESAMPLES
from triagekit.evaluation.metrics import evaluate_table
from triagekit.schema.schema import Schema
from triagekit.training.run_folder import RunFolder


@dataclass(frozen=True)
class Comparison:
    """Methods and baselines on the tickets they share.

    `estimates[score][method]` with intervals, and `macro_f1[field][method]` of fields of one label; `metrics[method]`: one
    evaluation a seed, on the shared tickets; `figures[method]`: cost and quality beside accuracy.
    """

    split: str
    schema: Schema
    tickets: int
    methods: list[Method]
    baselines: list[Method]
    reference: str | None
    conditions: Conditions
    estimates: dict[str, dict[str, Mean]]
    macro_f1: dict[str, dict[str, Mean]]
    metrics: dict[str, list[dict[str, Any]]]
    figures: dict[str, dict[str, Any]]
    pairs: list[PairedTest]
    against_baseline: list[PairedTest]
    statements: list[str]
    notes: list[str]
    resamples: int
    seed: int

    @property
    def runs(self) -> list[LoadedRun]:
        """Every run of every method."""
        return [run for method in self.methods for run in method.runs]

    def metric_of(self, score: str) -> str:
        """What `score` measures: accuracy, or similarity for text fields."""
        return dict(scores_of(self.methods[0]))[score]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for scripts."""
        return {
            "split": self.split,
            "tickets": self.tickets,
            "schema": self.schema.name,
            "schema_fingerprint": self.schema.fingerprint,
            "conditions": self.conditions.to_json(),
            "statements": self.statements,
            "notes": self.notes,
            "methods": [
                {
                    "name": method.name,
                    "runs": [str(run.folder) for run in method.runs],
                    "seeds": [run.seed for run in method.runs],
                    **self.figures[method.name],
                    **self._intervals(method),
                }
                for method in self.methods
            ],
            "baselines": [
                {
                    "name": method.name,
                    **self.figures[method.name],
                    **self._intervals(method),
                }
                for method in self.baselines
            ],
            "tests": [test.to_json() for test in self.pairs],
            "tests_against_baseline": [test.to_json() for test in self.against_baseline],
            "intervals": {"level": 0.95, "resamples": self.resamples, "seed": self.seed},
        }

    def _intervals(self, method: Method) -> dict[str, Any]:
        return {
            "scores": {score: own[method.name].to_json() for score, own in self.estimates.items()},
            "macro_f1": {field: own[method.name].to_json() for field, own in self.macro_f1.items()},
        }


def compare(
    runs: Sequence[LoadedRun],
    baselines: Sequence[LoadedBaseline],
    split: str,
    notes: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    design: Design = UNPLANNED,
) -> Comparison:
    """Compare loaded runs. All figures are taken on the tickets that every run and baseline was evaluated on.

    Raises TriageError where no ticket is shared.
    """
    grouped = group_runs(runs, design)
    conditions = check_conditions(grouped, design)
    schema = runs[0].schema
    references = [baseline_method(baseline, schema) for baseline in baselines]
    ids = common_tickets(table for method in [*grouped, *references] for table in method.tables)
    if not ids:
        raise TriageError("These runs were evaluated on different tickets: not one is shared. Evaluate them again.")
    most = max(len(table) for method in [*grouped, *references] for table in method.tables)
    said = list(notes)
    if len(ids) < most:
        said.append(
            f"Not all were evaluated on the same tickets: every figure here is on the {len(ids):,} that all share "
            f"(the largest evaluation has {most:,})."
        )
    rows = {run.summary["train_rows"] for run in runs if "train_rows" in run.summary}
    said.extend(
        f"The baseline {baseline.name} learnt from {baseline.metrics['train_rows']:,} rows, the runs from "
        f"{' / '.join(f'{count:,}' for count in sorted(rows))}."
        for baseline in baselines
        if baseline.metrics.get("train_rows") and rows and {baseline.metrics["train_rows"]} != rows
    )
    methods = [method.on(ids) for method in grouped]
    references = [method.on(ids) for method in references]
    estimates = {
        score: {
            method.name: seed_mean(method.scores(score, metric), resamples, seed) for method in [*methods, *references]
        }
        for score, metric in scores_of(methods[0])
    }
    macro_f1 = {
        field.name: {
            method.name: sampled_mean(method_macro_f1(method, [field], resamples, seed), len(ids))
            for method in [*methods, *references]
        }
        for field in one_label_fields(schema)
    }
    stored = [
        *((method, [run.metrics for run in method.runs]) for method in methods),
        *((method, [baseline.metrics]) for method, baseline in zip(references, baselines, strict=True)),
    ]
    best = max(references, key=lambda method: estimates[EXACT_MATCH][method.name].value, default=None)
    pairs = compare_pairs(methods, resamples, seed)
    against = compare_against(methods, best, resamples, seed) if best else []
    return Comparison(
        split=split,
        schema=schema,
        tickets=len(ids),
        methods=methods,
        baselines=references,
        reference=best.name if best else None,
        conditions=conditions,
        estimates=estimates,
        macro_f1=macro_f1,
        metrics={method.name: _metrics(method, own) for method, own in stored},
        figures={method.name: _figures(method) for method in [*methods, *references]},
        pairs=pairs,
        against_baseline=against,
        statements=[*statements(pairs, conditions), *statements(against, conditions)],
        notes=said,
        resamples=resamples,
        seed=seed,
    )


def find_baselines(run: LoadedRun, given: Path | None) -> Path | None:
    """The folder with baselines: of the data set `given`, or of the run's own data; None where there is none.

    Raises TriageError where `given` holds none.
    """
    data = given or data_folder(RunFolder(run.folder))
    for folder in (data / "baselines", data):
        if any(folder.glob("*/metrics.json")):
            return folder
    if given:
        raise TriageError(f"No baselines in {given}. Make them with: triage baseline {given}")
    return None


def _metrics(method: Method, stored: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics of each seed on the shared tickets: those on disk where they are about just these, else taken again."""
    return [
        own
        if own["rows"] == len(table) and "slices" in own and "abstention" in own
        else evaluate_table(method.schema, table)
        for own, table in zip(stored, method.tables, strict=True)
    ]


def _figures(method: Method) -> dict[str, Any]:
    """Cost and quality beside accuracy: means over the runs, the largest of peak memory; None where not recorded."""
    fields = [field.name for field in method.schema.label_fields]
    confidence = np.concatenate([table.record_confidence(fields) for table in method.tables])
    result: dict[str, Any] = {
        "valid": float(np.mean([verdict == "auto" for table in method.tables for verdict in table.verdicts])),
        "ece": calibration(confidence, method.scores(EXACT_MATCH).ravel())["ece"],
    }
    if method.deterministic:
        return result
    summaries = [run.summary for run in method.runs]
    free = [run.metrics.get("valid_before_constraint") for run in method.runs]
    result["valid_before_constraint"] = _mean([item["value"] for item in free if item])
    for key in (
        "trainable",
        "total",
        "share",
        "steps",
        "seconds",
        "rows_per_second",
        "val_loss_best",
        "token_accuracy_val",
    ):
        result[key] = _mean([summary.get(key) for summary in summaries])
    peaks = [summary["peak_memory_bytes"] for summary in summaries if summary.get("peak_memory_bytes")]
    result["peak_memory_bytes"] = max(peaks, default=None)
    return result


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if isinstance(value, int | float)]
    return sum(known) / len(known) if known else None
