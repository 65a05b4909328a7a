"""The ladder: set-ups of hardware, best first, each with how a run is done on it; read from YAML, changed by sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError, model_validator

from triagekit.errors import Problem, ProblemsError, did_you_mean
from triagekit.files.resources import find_config
from triagekit.files.yaml_file import YamlDocument, load_yaml
from triagekit.settings import Settings

SHIPPED = "ladder"
"""Name of the ladder that ships with the package, and that other ladder files extend when they do not say which."""

RESERVED = ("auto", "none")
"""What `hardware.rung` may say besides a rung's name."""


class Rung(Settings):
    """One set-up: the devices it needs, and how a run is done on them."""

    name: str = Field(min_length=1, description="what plans, runs and `hardware.rung` call it")
    description: str = Field("", description="one line for people")
    count: int = Field(1, ge=0, description="GPUs of one node; 0: none, one CPU process")
    nodes: PositiveInt = Field(1, description="nodes, each with `count` devices")
    device: Literal["cuda", "cpu"] = Field(
        "cuda", description="cpu with count 2: two CPU processes (gloo); count 0 is always cpu"
    )
    memory_gb: float = Field(gt=0, description="GB (10^9 bytes) that each device must have")
    capability: float | None = Field(None, description="lowest CUDA compute capability, e.g. 8.0 for bfloat16")
    launcher: str = Field("none", description="name in configs/accelerate/; none: one plain process")
    sharding: Literal["none", "ddp", "zero2", "zero3"] = Field(
        "none", description="what the processes share: ddp nothing, zero2 optimizer and gradients, zero3 weights too"
    )
    method: Literal["lora", "qlora"] = Field(
        "lora", description="lora: the base as the run has it; qlora: the base in 4 bits (NF4, double quantisation)"
    )
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        "bf16", description="of the computation where the run says auto; trained weights are float32 always"
    )
    micro_batch: PositiveInt | None = Field(None, description="most rows at once on a device; absent: the run's own")
    gradient_checkpointing: bool | None = Field(None, description="absent: as the run says")
    max_length: int | None = Field(None, ge=16, description="limit on tokens; absent: the run's own")
    packing: Literal["shared_prefix", "none"] | None = Field(None, description="absent: as the run says")

    @property
    def world(self) -> int:
        """Processes, one a device."""
        return max(1, self.count) * self.nodes

    @property
    def on_cpu(self) -> bool:
        """Whether the processes compute on the CPU."""
        return self.device == "cpu" or self.count == 0

    @property
    def minimum_capability(self) -> tuple[int, int] | None:
        """`capability` as (major, minor)."""
        if self.capability is None:
            return None
        major, _, minor = str(self.capability).partition(".")
        return int(major), int(minor or 0)

    @model_validator(mode="after")
    def _fit_together(self) -> Rung:
        if self.name in RESERVED or set(self.name) & set("/\\\0\n= "):
            raise ValueError(
                f"a rung cannot be called '{self.name}': {', '.join(RESERVED)}, '/', '=' and blanks mean else"
            )
        if self.world > 1 and (self.sharding == "none" or self.launcher == "none"):
            raise ValueError(f"{self.world} processes need `sharding` (ddp, zero2, zero3) and a `launcher`")
        if self.world == 1 and self.sharding != "none":
            raise ValueError(f"sharding: {self.sharding} needs more than one process, but count × nodes is 1")
        if self.on_cpu and self.capability is not None:
            raise ValueError("a CPU has no CUDA capability; leave `capability` out")
        return self


class Ladder(Settings):
    """Rungs, best first."""

    rungs: tuple[Rung, ...] = Field(min_length=1)

    @property
    def names(self) -> tuple[str, ...]:
        """The rungs' names in order."""
        return tuple(rung.name for rung in self.rungs)

    def rung(self, name: str) -> Rung:
        """The rung called `name`. Raises ProblemsError naming the nearest."""
        for rung in self.rungs:
            if rung.name == name:
                return rung
        hint = did_you_mean(name, (*self.names, *RESERVED))
        raise ProblemsError("The ladder has no such rung:", [Problem("hardware.rung", f"no rung '{name}'.", hint)])


def load_ladder(name_or_path: str = SHIPPED, overrides: Mapping[str, Any] | None = None) -> Ladder:
    """The ladder of a shipped name or a file, then `overrides` (a site's): the same keys as a file that extends.

    A file either lists all its `rungs`, best first, or changes another ladder:

        extends: ladder                      # absent: the shipped one
        rungs:
          2xA100: {micro_batch: 8}           # other values for a rung
          cpu: null                          # no such rung
        add:
          - {before: 24GB, name: 1xL40S, memory_gb: 44, ...}      # or `after`; neither: at the end

    Raises ProblemsError with every mistake of file and overrides at once, each with its place and the nearest name.
    """
    problems: list[Problem] = []
    entries = _read(name_or_path, problems, ())
    if overrides:
        _change(entries, YamlDocument(None, dict(overrides)), f"{name_or_path}, overridden", problems)
    rungs = [rung for entry in entries if (rung := entry.checked(problems)) is not None]
    if not problems and not rungs:
        problems.append(Problem(name_or_path, "has no rung left."))
    if problems:
        count = f"{len(problems)} mistake{'s' if len(problems) != 1 else ''}"
        raise ProblemsError(f"The ladder {name_or_path} has {count}:", problems)
    return Ladder(rungs=tuple(rungs))


class _Entry:
    """A rung that is not yet checked: its values, and where each was written."""

    def __init__(self, values: Mapping[str, Any], place: str, places: Mapping[str, str]) -> None:
        self.values = dict(values)
        self.place = place
        self.places = dict(places)

    @property
    def name(self) -> str:
        return str(self.values.get("name", ""))

    def checked(self, problems: list[Problem]) -> Rung | None:
        try:
            return Rung.model_validate(self.values)
        except ValidationError as error:
            for item in error.errors():
                key = str(item["loc"][0]) if item["loc"] else ""
                where = self.places.get(key, self.place)
                if item["type"] == "extra_forbidden":
                    message, hint = f"unknown key '{key}'.", did_you_mean(key, Rung.model_fields)
                elif item["type"] == "missing":
                    message, hint = f"rung '{self.name}' lacks '{key}'.", f"Add '{key}: …'."
                else:
                    given = f" (given: {item['input']!r})" if key else ""
                    message, hint = item["msg"].removeprefix("Value error, ") + f"{given}.", ""
                problems.append(Problem(where, message, hint))
            return None


def _read(name_or_path: str, problems: list[Problem], seen: tuple[str, ...]) -> list[_Entry]:
    document = load_yaml(find_config("hardware", name_or_path))
    data = document.data
    if not isinstance(data, Mapping) or not ({"rungs", "add", "extends"} & set(data)):
        problems.append(Problem(document.where(), "expected a ladder: 'rungs: …'."))
        return []
    if isinstance(data.get("rungs"), Sequence) and "extends" not in data:
        problems.extend(
            Problem(document.where((key,)), f"unknown key '{key}'.", did_you_mean(key, ["rungs", "extends", "add"]))
            for key in data
            if key not in {"rungs"}
        )
        return _listed(document, problems)
    parent = str(data.get("extends", SHIPPED))
    if parent in seen or parent == name_or_path:
        problems.append(Problem(document.where(("extends",)), f"'{parent}' extends itself."))
        return []
    entries = _read(parent, problems, (*seen, name_or_path))
    _change(entries, document, str(document.path), problems)
    return entries


def _listed(document: YamlDocument, problems: list[Problem]) -> list[_Entry]:
    entries: list[_Entry] = []
    for index, values in enumerate(document.data["rungs"]):
        place = document.where(("rungs", index))
        if not isinstance(values, Mapping):
            problems.append(Problem(place, "expected a rung: 'name: …' and its values."))
            continue
        entry = _Entry(values, place, {key: document.where(("rungs", index, key)) for key in values})
        if entry.name and entry.name in [other.name for other in entries]:
            problems.append(Problem(place, f"a second rung '{entry.name}'."))
        entries.append(entry)
    return entries


def _change(entries: list[_Entry], document: YamlDocument, source: str, problems: list[Problem]) -> None:
    """Apply the `rungs` and `add` of a document to `entries`, in place."""

    def where(*keys: str | int) -> str:
        return document.where(keys) if document.path else f"{source} {'.'.join(str(key) for key in keys)}"

    data = document.data
    for key in data:
        if key not in {"extends", "rungs", "add"}:
            problems.append(
                Problem(where(key), f"unknown key '{key}'.", did_you_mean(key, ["rungs", "add", "extends"]))
            )
    changes = data.get("rungs") or {}
    if not isinstance(changes, Mapping):
        problems.append(Problem(where("rungs"), "expected 'NAME: {key: value}' or 'NAME: null' (remove it)."))
        changes = {}
    for name, values in changes.items():
        entry = next((entry for entry in entries if entry.name == str(name)), None)
        if entry is None:
            hint = did_you_mean(name, [entry.name for entry in entries])
            problems.append(Problem(where("rungs", name), f"no rung '{name}' to change.", f"{hint} New ones: `add`."))
        elif values is None:
            entries.remove(entry)
        elif not isinstance(values, Mapping):
            problems.append(Problem(where("rungs", name), "expected {key: value} or null (remove it)."))
        else:
            entry.values.update(values)
            entry.places.update({str(key): where("rungs", name, str(key)) for key in values})
    added = data.get("add") or []
    if not isinstance(added, Sequence) or isinstance(added, str):
        problems.append(Problem(where("add"), "expected a list of rungs, each with `before` or `after` a rung's name."))
        added = []
    for index, values in enumerate(added):
        if isinstance(values, Mapping):
            _add(entries, dict(values), where("add", index), problems)
        else:
            problems.append(Problem(where("add", index), "expected a rung: 'name: …' and its values."))


def _add(entries: list[_Entry], values: dict[str, Any], place: str, problems: list[Problem]) -> None:
    before, after = values.pop("before", None), values.pop("after", None)
    names = [entry.name for entry in entries]
    at = len(entries)
    if before is not None and after is not None:
        problems.append(Problem(place, "`before` and `after` at once; choose one."))
    elif (anchor := before if before is not None else after) is not None:
        if str(anchor) in names:
            at = names.index(str(anchor)) + (0 if before is not None else 1)
        else:
            problems.append(Problem(place, f"no rung '{anchor}' to stand beside.", did_you_mean(anchor, names)))
    entry = _Entry(values, place, {str(key): f"{place}.{key}" for key in values})
    if entry.name in names:
        problems.append(
            Problem(place, f"a second rung '{entry.name}'.", f"Other values for it: 'rungs: {entry.name}: …'.")
        )
    entries.insert(at, entry)
