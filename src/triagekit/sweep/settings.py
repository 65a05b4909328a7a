"""A sweep as a person writes it: methods, ranks, seeds and any other lists of settings, and how they are combined."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from triagekit.errors import Problem, ProblemsError
from triagekit.files.resources import find_config
from triagekit.settings import Settings, load_settings
from triagekit.training.settings import TrainSettings
from triagekit.training.train import load_train_settings

_METHOD, _RANK, SEED, RATE = "method", "adapter.r", "seed", "optimizer.learning_rate"
_OWN_KEYS = {"name", "output", "hardware.rung"}


class MethodSettings(Settings):
    """One of the methods that are compared, where it needs more than its name."""

    name: str = Field(description="what the members are called by, e.g. hybrid-output-tokens")
    config: str | None = Field(None, description="train config of this method; absent: the sweep's")
    overrides: list[str] = Field([], description="key=value words of this method, e.g. [adapter.method=hybrid]")
    learning_rates: list[PositiveFloat] | None = Field(None, description="absent: the sweep's")


class SweepSettings(Settings):
    """Training runs that differ in a few settings only, run on this machine or as Slurm arrays."""

    name: str = Field(description="folder below `output` that holds the member runs and the sweep's own files")
    config: str = Field("lora", description="train config that every member starts from: shipped name or path")
    output: str = Field("runs", description="folder that holds the sweep's folder")
    overrides: list[str] = Field([], description="key=value words for every member, e.g. [data=data/processed/mine]")
    methods: list[str | MethodSettings] = Field(
        [], description="adapter.method of each: lora, hybrid, full; or a name with its own config and overrides"
    )
    ranks: list[PositiveInt] = Field([], description="adapter.r; left out for method full, which has none")
    seeds: list[int] = Field([], description="seed; members that differ in it alone are one method in a report")
    learning_rates: list[PositiveFloat] = Field(
        [],
        description="tried with the first seed; what is best on the validation split is then trained with the others",
    )
    vary: dict[str, list[Any]] = Field({}, description="any other setting: its dotted key and the values it takes")
    combine: Literal["product", "zip"] = Field(
        "product", description="product: every combination; zip: the first of each list, the second of each, …"
    )
    concurrency: PositiveInt | None = Field(None, description="members that run at once; absent: as many as start")

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", value):
            raise ValueError("a sweep's name becomes a folder name: letters, digits, and . _ + - inside")
        return value

    @field_validator("vary")
    @classmethod
    def _varies_something(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in value.items():
            if key in _OWN_KEYS:
                raise ValueError(f"'{key}' is set by the sweep itself and cannot be varied")
            if key in (SEED, _RANK):
                raise ValueError(f"'{key}' has its own list: {'seeds' if key == SEED else 'ranks'}")
            if not values:
                raise ValueError(f"'{key}' has no values")
        return value

    @model_validator(mode="after")
    def _has_one_list_of_rates(self) -> SweepSettings:
        own = any(isinstance(method, MethodSettings) and method.learning_rates for method in self.methods)
        if RATE in self.vary and (self.learning_rates or own):
            raise ValueError(f"vary has '{RATE}', and learning_rates chooses it: leave one of them out")
        return self

    @model_validator(mode="after")
    def _combines(self) -> SweepSettings:
        if self.combine == "zip":
            lengths = {name: len(values) for name, values in self._axes() if len(values) > 1}
            if len(set(lengths.values())) > 1:
                shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
                raise ValueError(f"zip pairs lists of one length, but their lengths are: {shown}")
        return self

    def _axes(self) -> list[tuple[str, list[Any]]]:
        axes: list[tuple[str, list[Any]]] = [(_METHOD, list(self.methods)), (_RANK, list(self.ranks))]
        axes += [(key, list(values)) for key, values in self.vary.items()]
        axes.append((SEED, list(self.seeds)))
        return [(name, values) for name, values in axes if values]

    def combinations(self) -> list[dict[str, Any]]:
        """Axis name → value of each member, seeds changing fastest."""
        names = [name for name, _ in self._axes()]
        lists = [values for _, values in self._axes()]
        if self.combine == "zip":
            length = max((len(values) for values in lists), default=1)
            lists = [values * length if len(values) == 1 else values for values in lists]
            return [dict(zip(names, chosen, strict=True)) for chosen in zip(*lists, strict=True)] or [{}]
        return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*lists)]


def load_sweep(name_or_path: str, overrides: Sequence[str] = ()) -> SweepSettings:
    """Settings of a shipped sweep (`methods_by_seeds`) or a YAML file, with `key=value` overrides."""
    return load_settings(SweepSettings, find_config("sweep", name_or_path), overrides)


def sweep_folder(sweep: SweepSettings) -> Path:
    """Where the sweep's own files and its members' run folders are."""
    return Path(sweep.output) / sweep.name


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    name: str
    settings: TrainSettings
    axes: dict[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.settings.output) / self.name


def possible_members(sweep: SweepSettings) -> tuple[Member, ...]:
    """Every run that a sweep can come to, each learning rate with each seed, named by what they differ in; the same sweep
    gives the same names in the same order.

    Raises ProblemsError with the mistakes of all members at once, and where two differing members have one name.
    """
    members: dict[str, Member] = {}
    problems: dict[str, Problem] = {}
    for combination in sweep.combinations():
        try:
            found = [_member(sweep, {**combination, **rate}) for rate in _rates(sweep, combination)]
        except ProblemsError as error:
            # A mistake in the base config is every member's; it is told once.
            problems.update({str(problem): problem for problem in error.problems})
            continue
        for member in found:
            other = members.setdefault(member.name, member)
            if other.settings != member.settings:
                problem = Problem(f"member '{member.name}'", "two members with other settings have this name.")
                problems[str(problem)] = problem
    if problems:
        raise ProblemsError(f"Sweep '{sweep.name}' cannot be run:", list(problems.values()))
    return tuple(members.values())


def settings_of_methods(sweep: SweepSettings) -> frozenset[str]:
    """The dotted keys that the methods' own words set: what defines them."""
    words = [word for method in sweep.methods if isinstance(method, MethodSettings) for word in method.overrides]
    return frozenset(word.partition("=")[0].strip() for word in words)


def _rates(sweep: SweepSettings, combination: dict[str, Any]) -> list[dict[str, float]]:
    """The learning rates of a combination, as axes; [{}] where its train config's own is taken."""
    method = combination.get(_METHOD)
    own = method.learning_rates if isinstance(method, MethodSettings) else None
    return [{RATE: rate} for rate in (sweep.learning_rates if own is None else own)] or [{}]


def _member(sweep: SweepSettings, combination: dict[str, Any]) -> Member:
    method = combination.get(_METHOD)
    config, words, label = sweep.config, list(sweep.overrides), None
    if isinstance(method, MethodSettings):
        config, label = method.config or config, method.name
        words += method.overrides
    elif method is not None:
        label = str(method)
        words.append(f"adapter.method={method}")
    words.append(f"output={_word(str(Path(sweep.output) / sweep.name))}")
    plain = load_train_settings(config, words, "member")
    combination = dict(sorted(combination.items(), key=lambda item: item[0] == SEED))
    axes = {"method": label or plain.adapter.method}
    for key, value in combination.items():
        if key == _METHOD or (key == _RANK and plain.adapter.method == "full"):
            continue
        words.append(f"{key}={_word(value)}")
        axes[key] = value
    name = "-".join(_name_parts(sweep, axes, label))
    return Member(name, load_train_settings(config, words, name), axes)


def _name_parts(sweep: SweepSettings, axes: dict[str, Any], label: str | None) -> list[str]:
    endings = [key.rpartition(".")[2] for key in sweep.vary]
    parts = [axes["method"]] if label or not (sweep.vary or RATE in axes) else []
    for key, value in axes.items():
        if key in ("method", SEED):
            continue
        if key == _RANK:
            parts.append(f"r{value}")
            continue
        ending = key.rpartition(".")[2]
        parts.append(f"{ending if endings.count(ending) <= 1 else key}-{_plain(value)}")
    if SEED in axes:
        parts.append(f"seed{axes[SEED]}")
    return [_plain(part) for part in parts]


def _plain(value: Any) -> str:
    """A value as part of a folder name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", str(value)).strip("_") or "none"


def _word(value: Any) -> str:
    """A value as YAML on one line, which the override reader reads back as the same value."""
    import json

    return json.dumps(value, ensure_ascii=False)
