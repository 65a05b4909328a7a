"""The base class of all settings, and their loading from a YAML file with overrides from the command line."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union

from pydantic import BaseModel, ConfigDict, ValidationError

from triagekit.errors import Problem, ProblemsError, did_you_mean
from triagekit.files.yaml_file import YamlDocument, load_yaml, parse_yaml


class Settings(BaseModel):
    """Frozen, strict about names. A subclass's fields carry defaults and a `Field(description=…)` for the docs."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())


AnySettings = TypeVar("AnySettings", bound=Settings)


def load_settings(kind: type[AnySettings], path: Path, overrides: Sequence[str] = ()) -> AnySettings:
    """Settings of type `kind` from a YAML file, then `key.inner=value` overrides (values are read as YAML).

    Raises ProblemsError with every mistake at once: file, line, key, what was given, what was expected, the nearest
    valid key.
    """
    return parse_settings(kind, load_yaml(path), overrides)


def parse_settings(kind: type[AnySettings], document: YamlDocument, overrides: Sequence[str] = ()) -> AnySettings:
    """As load_settings, from a document that is already read."""
    problems: list[Problem] = []
    data = document.data if document.data is not None else {}
    if not isinstance(data, dict):
        raise ProblemsError(
            f"{document.where()} cannot be read as settings:",
            [Problem(document.where(), f"expected 'key: value' lines, found a {type(data).__name__}.")],
        )
    overridden: set[tuple[str, ...]] = set()
    for text in overrides:
        problem = _apply_override(data, text, overridden)
        if problem:
            problems.append(problem)
    settings: AnySettings | None = None
    try:
        settings = kind.model_validate(data)
    except ValidationError as error:
        problems.extend(_problems_of(error, kind, document, overridden))
    if problems or settings is None:
        name = str(document.path) if document.path else "the settings"
        count = f"{len(problems)} mistake{'s' if len(problems) != 1 else ''}"
        raise ProblemsError(f"{name} has {count}:", problems)
    return settings


def to_yaml(settings: Settings) -> str:
    """The settings as resolved, defaults included, as YAML that load_settings reads back equal."""
    import yaml

    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _apply_override(data: dict[str, Any], text: str, overridden: set[tuple[str, ...]]) -> Problem | None:
    key, equals, value = text.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        return Problem(f"override '{text}'", "expected key=value.", "For example: optimizer.learning_rate=2e-4")
    target = data
    for part in keys[:-1]:
        inner = target.get(part)
        if inner is None:
            inner = target[part] = {}
        if not isinstance(inner, dict):
            return Problem(f"override '{text}'", f"'{part}' holds a single value, so it has no inner keys.")
        target = inner
    parsed = parse_yaml(value).data
    target[keys[-1]] = _number(parsed)
    overridden.add(keys)
    return None


def _number(value: Any) -> Any:
    """YAML 1.1 reads `2e-5` as text; a person means the number."""
    if isinstance(value, str):
        try:
            return float(value) if any(mark in value.lower() for mark in (".", "e")) else value
        except ValueError:
            return value
    return value


def _problems_of(
    error: ValidationError, kind: type[Settings], document: YamlDocument, overridden: set[tuple[str, ...]]
) -> list[Problem]:
    problems = []
    for item in error.errors():
        location = tuple(part for part in item["loc"] if not _is_union_tag(part))
        dotted = ".".join(str(part) for part in location)
        where = f"override '{dotted}'" if _is_overridden(location, document, overridden) else document.where(location)
        if item["type"] == "extra_forbidden":
            hint = did_you_mean(location[-1], _keys_at(kind, location[:-1]))
            problems.append(Problem(where, f"unknown key '{location[-1]}'.", hint))
        elif item["type"] == "missing":
            problems.append(Problem(where, f"'{dotted}' is needed and has no default.", f"Add '{location[-1]}: …'."))
        else:
            given = item.get("input")
            shown = f" (given: {given!r})" if not isinstance(given, dict) else ""
            message = item["msg"].removeprefix("Value error, ")
            problems.append(Problem(where, f"{message}{shown}."))
    return problems


def _is_overridden(location: Sequence[str | int], document: YamlDocument, overridden: set[tuple[str, ...]]) -> bool:
    """Whether the value at `location` came from the command line: set there itself, or made by an inner key there."""
    words = tuple(str(part) for part in location)
    return any(
        words[: len(keys)] == keys or (keys[: len(words)] == words and tuple(location) not in document.lines)
        for keys in overridden
    )


def _is_union_tag(part: str | int) -> bool:
    return isinstance(part, str) and (part.endswith("]") or part in {"int", "float", "str", "bool"})


def _keys_at(kind: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Valid keys of the settings class that stands at `location` inside `kind`."""
    current: type[BaseModel] | None = kind
    for part in location:
        if isinstance(part, int):
            continue
        if current is None or part not in current.model_fields:
            return []
        current = _settings_class(current.model_fields[part].annotation)
    return list(current.model_fields) if current is not None else []


def _settings_class(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (Union, UnionType, list, tuple, dict):
        for argument in typing.get_args(annotation):
            found = _settings_class(argument)
            if found is not None:
                return found
    return None
