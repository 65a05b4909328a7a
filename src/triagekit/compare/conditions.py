"""Were the runs made under identical conditions? Every difference is listed; the method's own is told from the rest.

A difference between two methods can be put down to the method only if nothing else differs. Another learning rate,
other data or another number of steps explains a better score just as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from triagekit.compare.design import UNPLANNED, Design
from triagekit.compare.methods import Method
from triagekit.files.fingerprint import fingerprint_json

Kind = Literal["method", "chosen", "confound", "speed", "environment"]

# What a setting may change. Everything that is not listed here confounds.
_PLACE = ("name", "output", "seed")
_SPEED = ("batch.micro", "batch.eval", "batch.packing", "gradient_checkpointing", "checkpoints", "log_every_steps")
# Names of folders say nothing: their content's fingerprint, in the summary, is compared instead.
_BY_CONTENT = {"data": "data_fingerprint", "base": "base_fingerprint"}
# Facts of the summary that are listed beside the results, and are no reason against a comparison.
_ENVIRONMENT = {"rung": "rung", "precision": "precision (as run)", "hardware": "hardware", "versions": "versions"}
# Facts of the summary that are conditions, and the settings that explain a difference in them.
_FACTS: dict[str, tuple[str, ...]] = {
    "data_fingerprint": (),
    "base_fingerprint": (),
    "schema_fingerprint": ("data_fingerprint",),
    "template_fingerprint": ("prompt", "base_fingerprint", "data_fingerprint", "schema_fingerprint"),
    "train_rows": ("max_train_rows", "data_fingerprint"),
    "effective_batch": ("batch.effective",),
    "epochs": ("epochs", "max_steps", "batch.effective", "max_train_rows", "data_fingerprint"),
    "steps": ("epochs", "max_steps", "batch.effective", "max_train_rows", "data_fingerprint", "sampling"),
}


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same everywhere: its name, what kind it is, and each method's value as text."""

    name: str
    kind: Kind
    values: dict[str, str]
    explained: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"name": self.name, "kind": self.kind, "values": self.values, "explained": self.explained}


@dataclass(frozen=True)
class Conditions:
    """The differences between several methods, what is the same, and whether the methods can be compared."""

    differences: tuple[Difference, ...]
    same: dict[str, str]
    not_comparable: dict[tuple[str, str], tuple[str, ...]]

    @property
    def comparable(self) -> bool:
        """Whether no pair of methods has a confounding difference."""
        return not self.not_comparable

    def confounders(self, first: str, second: str) -> tuple[str, ...]:
        """What differs between two methods besides the method; () where they can be compared."""
        return self.not_comparable.get((first, second)) or self.not_comparable.get((second, first), ())

    @property
    def verdict(self) -> str:
        """One line for a person."""
        if self.comparable:
            return "comparable"
        names = dict.fromkeys(name for names in self.not_comparable.values() for name in names)
        return f"not comparable: {', '.join(names)} differ{'s' if len(names) == 1 else ''}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "verdict": self.verdict,
            "comparable": self.comparable,
            "differences": [difference.to_json() for difference in self.differences],
            "same": self.same,
            "not_comparable": [
                {"methods": list(pair), "because_of": list(names)} for pair, names in self.not_comparable.items()
            ],
        }


def check_conditions(methods: Sequence[Method], design: Design = UNPLANNED) -> Conditions:
    """Compare settings, facts and evaluated tickets of all methods.

    Two methods are comparable if their adapter settings differ and nothing else that matters does, or if the adapter is
    the same and exactly one other setting differs (then that setting is what is compared). Values of several runs of
    one method are joined; that a method's runs differ among themselves in a fact is a difference too. What `design` calls
    the method's own, or chosen on the validation split, is no reason against a comparison.
    """
    facts = {method.name: _facts(method) for method in methods}
    differences: list[Difference] = []
    same: dict[str, str] = {}
    for name in dict.fromkeys(key for own in facts.values() for key in own):
        values = {method.name: facts[method.name].get(name, "not set") for method in methods}
        if len(set(values.values())) > 1 or any(" / " in value for value in values.values()):
            differences.append(Difference(name, _kind(name, design), values, _explained(name, values, facts)))
        elif _kind(name, design) in ("confound", "method"):
            same[name] = next(iter(values.values()))
    blocked = {}
    for first, second in combinations([method.name for method in methods], 2):
        names = _confounders(differences, first, second)
        if names:
            blocked[first, second] = names
    order: dict[Kind, int] = {"confound": 0, "method": 1, "chosen": 2, "speed": 3, "environment": 4}
    return Conditions(tuple(sorted(differences, key=lambda item: order[item.kind])), same, blocked)


def _confounders(differences: Sequence[Difference], first: str, second: str) -> tuple[str, ...]:
    own = [item for item in differences if item.values[first] != item.values[second]]
    adapter = any(item.kind == "method" for item in own)
    others = [item for item in own if item.kind == "confound" and not item.explained]
    settings = [item for item in others if item.name not in ("seeds", "evaluated tickets")]
    if not adapter and len(settings) == 1:
        # One thing was changed on purpose, as in a sweep: it is what is being compared.
        others = [item for item in others if item is not settings[0]]
    return tuple(item.name for item in others)


def _facts(method: Method) -> dict[str, str]:
    """Every condition of one method as text."""
    config = method.runs[0].config
    facts = {
        name: _text(value)
        for name, value in sorted(config.items())
        if name not in _PLACE and not (name in _BY_CONTENT and _BY_CONTENT[name] in method.runs[0].summary)
    }
    for name in _FACTS:
        values = [_text(run.summary[name]) for run in method.runs if name in run.summary]
        if values:
            key = f"{name} (as run)" if name in config else name
            facts[key] = " / ".join(dict.fromkeys(values))
    facts["seeds"] = ", ".join(sorted((_text(run.seed) for run in method.runs), key=lambda text: (len(text), text)))
    tickets = {(len(run.table), fingerprint_json(sorted(run.table.ids))[:6]) for run in method.runs}
    facts["evaluated tickets"] = " / ".join(f"{count:,} (set {mark})" for count, mark in sorted(tickets))
    for name, key in _ENVIRONMENT.items():
        shown = dict.fromkeys(_text(run.summary[name]) for run in method.runs if name in run.summary)
        if shown:
            facts[key] = " / ".join(shown)
    return facts


def _explained(name: str, values: Mapping[str, str], facts: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether a differing fact follows from a differing setting that is listed itself."""
    fact = name.removesuffix(" (as run)")
    causes = _FACTS.get(fact, ())
    own = [facts[method] for method in values]
    if fact in ("steps", "epochs") and all("evaluation.early_stopping.patience" in mapping for mapping in own):
        # With early stopping the number of steps is a result of the run, not a condition of it.
        return True
    return any(
        len({mapping.get(key) for mapping in own}) > 1
        for cause in causes
        for mapping in own
        for key in mapping
        if key != name and _below(key, cause)
    )


def _kind(name: str, design: Design) -> Kind:
    if any(_below(name, own) for own in ("adapter", *design.method_settings)):
        return "method"
    if any(_below(name, chosen) for chosen in design.chosen_settings):
        return "chosen"
    if any(_below(name, speed) for speed in _SPEED):
        return "speed"
    return "environment" if name in _ENVIRONMENT.values() else "confound"


def _below(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
