"""The shipped issue kinds, phrases and slot values, read once and checked against the it_tickets values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from triagekit.errors import Problem, ProblemsError
from triagekit.files.yaml_file import load_yaml

Families = Literal["train", "test", "all"]
LANGUAGES = ("en", "es")
PRIORITIES = ("Low", "Medium", "High", "Critical")
REQUEST_TYPES = ("Incident", "Service Request")
ASSIGNMENT_GROUPS = (
    "End User Applications",
    "Network Operations",
    "Desktop Support",
    "Email / Messaging",
    "Security / Access",
    "Hardware Support",
    "Facilities",
)
SUBCATEGORIES: dict[str, tuple[str, ...]] = {
    "Hardware": ("Other", "Physical Security"),
    "Software": ("Other", "Login Issues"),
    "Access": ("Login Issues", "Permissions", "Policy Violation"),
    "Network": ("Login Issues", "Other"),
    "Security": ("Malware", "Policy Violation", "Permissions", "Login Issues", "Other"),
    "Workplace": ("Physical Security", "Other"),
}
_FOLDER = Path(__file__).resolve().parent
Item = TypeVar("Item")


@dataclass(frozen=True)
class IssueKind:
    """One thing that goes wrong or is asked for. `severity` 1-4 is the usual priority before the stated effect."""

    name: str
    category: str
    subcategory: str
    assignment_group: str
    request_type: str
    severity: int
    topic: str
    summary: str
    symptoms: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Phrases:
    """What surrounds a symptom in one language; `effects` maps points on the severity to sentences."""

    effects: dict[int, tuple[str, ...]]
    urgent_tone: tuple[str, ...]
    frustrated: tuple[str, ...]
    details: tuple[str, ...]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    subjects: tuple[str, ...]
    frames: tuple[str, ...]
    abbreviations: tuple[tuple[str, str], ...]
    areas: dict[str, tuple[str, ...]]
    mentions: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Family:
    """A template family: one wording of one issue kind in one language. Its name decides train or test."""

    name: str
    kind: IssueKind
    language: str
    wording: str
    part: Literal["train", "test"]


def _order(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@cache
def issue_kinds() -> tuple[IssueKind, ...]:
    """All issue kinds. Raises ProblemsError with every entry whose labels break the rules of it_tickets."""
    kinds: list[IssueKind] = []
    problems: list[Problem] = []
    for category in SUBCATEGORIES:
        document = load_yaml(_FOLDER / "kinds" / f"{category.lower()}.yaml")
        for index, entry in enumerate(document.data):
            subcategory, group, request_type, severity, topic = entry["labels"]
            valid = (
                subcategory in SUBCATEGORIES[category]
                and group in ASSIGNMENT_GROUPS
                and request_type in REQUEST_TYPES
                and severity in range(1, len(PRIORITIES) + 1)
            )
            if not valid:
                problems.append(Problem(document.where((index,)), f"labels {entry['labels']} break the rules."))
                continue
            symptoms = {language: tuple(entry[language]) for language in LANGUAGES}
            kinds.append(
                IssueKind(
                    entry["kind"],
                    category,
                    subcategory,
                    group,
                    request_type,
                    severity,
                    topic,
                    entry["summary"],
                    symptoms,
                )
            )
    if problems:
        raise ProblemsError("The generator's issue kinds have mistakes:", problems)
    return tuple(kinds)


@cache
def families() -> tuple[Family, ...]:
    """Every template family. Of each kind and language, the wording with the lowest hash is kept for the test part."""
    found: list[Family] = []
    for kind in issue_kinds():
        for language in LANGUAGES:
            names = [f"{kind.name}/{language}/{index}" for index in range(len(kind.symptoms[language]))]
            held_out = min(names, key=_order)
            for name, wording in zip(names, kind.symptoms[language], strict=True):
                found.append(Family(name, kind, language, wording, "test" if name == held_out else "train"))
    return tuple(found)


@cache
def slot_values() -> dict[str, tuple[tuple[str, str], ...]]:
    """Slot name → (English, Spanish) values; '^' stands for a digit and '@' for a letter to be drawn."""
    data: dict[str, list[Any]] = load_yaml(_FOLDER / "slots.yaml").data
    return {name: tuple(_both(str(value)) for value in values) for name, values in data.items()}


def _both(value: str) -> tuple[str, str]:
    english, bar, spanish = value.partition("|")
    return english, spanish if bar else english


@cache
def phrases(language: str, part: Literal["train", "test"]) -> Phrases:
    """The phrases of one part: three fifths of a list are common to both, a fifth each is train's or test's own."""
    data: dict[str, Any] = load_yaml(_FOLDER / f"phrases.{language}.yaml").data

    def share(items: Sequence[Item]) -> tuple[Item, ...]:
        ordered = sorted(items, key=lambda item: _order(str(item)))
        fifth = len(ordered) // 5
        keep = ordered[fifth:] if part == "train" else ordered[: len(ordered) - fifth]
        return tuple(keep)

    return Phrases(
        effects={int(points): share(items) for points, items in data["effects"].items()},
        abbreviations=tuple(data["abbreviations"].items()),
        areas={topic: tuple(words) for topic, words in data["areas"].items()},
        mentions={slot: tuple(sentences) for slot, sentences in data["mentions"].items()},
        **{
            name: share(data[name])
            for name in ("urgent_tone", "frustrated", "details", "openers", "closers", "subjects", "frames")
        },
    )
