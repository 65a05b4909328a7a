"""Runs grouped into methods: the same settings but for the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from triagekit.compare.design import UNPLANNED, Design
from triagekit.compare.runs import LoadedBaseline, LoadedRun, on_tickets
from triagekit.evaluation.metrics import ticket_scores
from triagekit.evaluation.table import PredictionTable
from triagekit.files.fingerprint import fingerprint_json
from triagekit.schema.schema import Schema

EXACT_MATCH = "all label fields"
"""Name of the score that is 1 where every label field is right."""

# What does not make another method: where a run lies, its seed, and what changes speed but not the result.
_NOT_THE_METHOD = (
    "name",
    "output",
    "seed",
    "data",
    "base",
    "log_every_steps",
    "batch.micro",
    "batch.eval",
    "batch.packing",
)
_CONTENT = ("data_fingerprint", "base_fingerprint")


@dataclass(frozen=True)
class Method:
    """One way of training with a run (and a table of predictions) for each of its seeds; or one baseline, without runs."""

    name: str
    schema: Schema
    runs: tuple[LoadedRun, ...]
    tables: tuple[PredictionTable, ...]

    @property
    def deterministic(self) -> bool:
        """Whether doing it again would give the same answers: true for baselines."""
        return not self.runs

    def scores(self, name: str, metric: str = "accuracy") -> np.ndarray:
        """Scores of shape (seeds, tickets): of one metric of a field, or of `EXACT_MATCH`."""
        if name == EXACT_MATCH:
            fields = [field.name for field in self.schema.label_fields]
            return np.stack([table.all_correct(fields).astype(float) for table in self.tables])
        return np.stack([ticket_scores(self.schema.field(name), table)[metric] for table in self.tables])

    def on(self, ids: Sequence[str]) -> Method:
        """The same method on some of its tickets."""
        return replace(self, tables=tuple(on_tickets(table, ids) for table in self.tables))


def group_runs(runs: Sequence[LoadedRun], design: Design = UNPLANNED) -> list[Method]:
    """Runs by their settings without the seed, in the order given; each group named by what sets it apart.

    The name is the one that `design` has for the folder of its first run; else the adapter's method (`lora`, `hybrid`, …),
    and where two groups share it, the differing settings follow.
    """
    groups: dict[str, list[LoadedRun]] = {}
    for run in runs:
        groups.setdefault(fingerprint_json(_identity(run)), []).append(run)
    members = list(groups.values())
    methods = []
    for own in members:
        kind = _kind(own[0])
        rivals = [other for other in members if other is not own and _kind(other[0]) == kind]
        differing = sorted(
            {
                key
                for rival in rivals
                for key in _identity(own[0]).keys() | _identity(rival[0]).keys()
                if _identity(own[0]).get(key) != _identity(rival[0]).get(key)
            }
        )
        shown = ", ".join(f"{key.removeprefix('adapter.')}={_identity(own[0]).get(key)}" for key in differing)
        ordered = sorted(own, key=lambda run: (str(run.seed).zfill(12), run.name))
        methods.append(
            Method(
                design.names.get(own[0].folder) or (f"{kind} ({shown})" if shown else kind),
                own[0].schema,
                tuple(ordered),
                tuple(run.table for run in ordered),
            )
        )
    return methods


def baseline_method(baseline: LoadedBaseline, schema: Schema) -> Method:
    """A baseline in the shape of a method."""
    return Method(baseline.name, schema, (), (baseline.table,))


def _kind(run: LoadedRun) -> str:
    return str(run.config.get("adapter.method") or run.summary.get("method") or "run")


def _identity(run: LoadedRun) -> dict[str, object]:
    content = {key: run.summary[key] for key in _CONTENT if key in run.summary}
    return {key: value for key, value in run.config.items() if key not in _NOT_THE_METHOD} | content
