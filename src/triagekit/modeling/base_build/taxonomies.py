"""Made-up ticket taxonomies: other field names, other labels, other groupings than any schema that ships."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from triagekit.data.generator.catalogue import PRIORITIES, REQUEST_TYPES, issue_kinds
from triagekit.files.yaml_file import load_yaml
from triagekit.schema import (
    DependentEnumField,
    EnumField,
    Field,
    Schema,
    TagsField,
    TextField,
    normalise_text,
)


@cache
def words() -> dict[str, Any]:
    """The shipped names that taxonomies are drawn from."""
    data: dict[str, Any] = load_yaml(Path(__file__).resolve().parent / "taxonomy_words.yaml").data
    return data


@cache
def _topics() -> dict[str, str]:
    return {kind.name: kind.topic for kind in issue_kinds()}


@dataclass(frozen=True)
class Taxonomy:
    """A made-up schema and how a generated ticket's record looks in it. `roles`: what each field stands for."""

    schema: Schema
    roles: tuple[str, ...]
    areas: dict[str, str]
    parts: dict[str, str | None]
    queues: dict[str, str]

    def record(self, ticket: dict[str, str]) -> dict[str, Any]:
        """The record of a generated ticket."""
        topic = _topics()[ticket["family"].split("/")[0]]
        return {
            field.name: self._value(field, role, topic, ticket)
            for field, role in zip(self.schema.fields, self.roles, strict=True)
        }

    def _value(self, field: Field, role: str, topic: str, ticket: dict[str, str]) -> Any:
        if isinstance(field, TextField):
            return normalise_text(ticket["summary"], field.max_length)
        level = PRIORITIES.index(ticket["priority"])
        if isinstance(field, TagsField):
            grave = level >= 2
            chosen = {self.areas[topic], *([field.values[-2]] if grave else [])}
            chosen |= {field.values[-1]} if ticket["language"] == "es" else set()
            return [value for value in field.values if value in chosen][: field.max_items]
        if role == "area":
            return self.areas[topic]
        if role == "part":
            return self.parts[topic]
        if role == "queue":
            return self.queues[topic]
        if role == "urgency":
            return field.values[min(level, len(field.values) - 1)]
        if role == "request":
            return field.values[REQUEST_TYPES.index(ticket["request_type"])]
        return field.values[0 if ticket["language"] == "en" else 1]


def make_taxonomy(seed: int, number: int, numbered: bool = False) -> Taxonomy:
    """Taxonomy `number` of the endless series with this seed; always the same one.

    `numbered`: its short instructions name it, so that a prompt without the schema says which labels are meant.
    """
    random = Random(f"taxonomy/{seed}/{number}")
    areas = _areas(random)
    names = {role: random.choice(choices) for role, choices in words()["field_names"].items()}
    parts, part_field = _parts(areas, names, random)
    queues = _queues(areas, random)
    makers: dict[str, Field] = {
        "summary": TextField(names["summary"], random.choice((80, 120, 160, 200)), False, _description(random)),
        "area": EnumField(names["area"], _distinct(areas, random), description=_description(random)),
        "part": part_field,
        "urgency": EnumField(names["urgency"], tuple(random.choice(words()["urgency"])), ordered=True),
        "queue": EnumField(names["queue"], _distinct(queues, random), description=_description(random)),
        "request": EnumField(names["request"], tuple(random.choice(words()["request"]))),
        "language": EnumField(names["language"], tuple(random.choice(words()["language"]))),
        "tags": TagsField(names["tags"], (*_distinct(areas, random), "pressing", "spanish"), 3),
    }
    roles = _choose_roles(random)
    instructions = random.sample(words()["instructions"], 2)
    schema = Schema(
        name=f"made_up_{number}",
        instructions=tuple(f"Form {number}: {text}" if numbered else text for text in instructions),
        fields=tuple(makers[role] for role in roles),
    )
    return Taxonomy(schema, roles, areas, parts, queues)


def _choose_roles(random: Random) -> tuple[str, ...]:
    chances = {"urgency": 0.75, "queue": 0.6, "request": 0.45, "language": 0.15, "tags": 0.12}
    rest = ["area", *(role for role, chance in chances.items() if random.random() < chance)]
    random.shuffle(rest)
    if random.random() < 0.4:
        # The dependent field stands right behind its parent, as in most real schemas.
        rest.insert(rest.index("area") + 1, "part")
    if random.random() < 0.85:
        rest.insert(0 if random.random() < 0.7 else len(rest), "summary")
    return tuple(rest)


def _areas(random: Random) -> dict[str, str]:
    """Topic → label. At least one cluster is split into its topics, so the six demo categories never come about."""
    clusters = dict(words()["clusters"])
    split = {name for name in clusters if random.random() < 0.3} or {random.choice(sorted(clusters))}
    whole = [name for name in clusters if name not in split]
    merged = set(random.sample(whole, 2)) if len(whole) > 3 and random.random() < 0.25 else set()
    merged_name = random.choice(words()["merged_names"])
    rest_name = random.choice(words()["remainder"])
    labels: dict[str, str] = {}
    for name, cluster in clusters.items():
        cluster_label = merged_name if name in merged else random.choice(cluster["names"])
        for topic in cluster["topics"]:
            if name not in split:
                labels[topic] = cluster_label
            elif random.random() < 0.12:
                labels[topic] = rest_name
            else:
                labels[topic] = random.choice(words()["topics"][topic])
    return labels


def _parts(
    areas: dict[str, str], names: dict[str, str], random: Random
) -> tuple[dict[str, str | None], DependentEnumField]:
    nullable = random.random() < 0.3
    parts: dict[str, str | None] = {}
    by_parent: dict[str, list[str]] = {}
    for topic, label in areas.items():
        by_parent.setdefault(label, [])
        if nullable and random.random() < 0.3:
            parts[topic] = None
            continue
        value = random.choice(words()["topics"][topic])
        parts[topic] = value
        if value not in by_parent[label]:
            by_parent[label].append(value)
    values = {parent: tuple(sorted(found)) for parent, found in by_parent.items()}
    return parts, DependentEnumField(names["part"], names["area"], values, nullable=nullable)


def _queues(areas: dict[str, str], random: Random) -> dict[str, str]:
    """Topic → team: one team a cluster, some topics with a team of their own."""
    form = random.choice(words()["queue_forms"])
    queues: dict[str, str] = {}
    for cluster in words()["clusters"].values():
        common = form.format(random.choice(cluster["names"]))
        for topic in cluster["topics"]:
            own = random.random() < 0.2
            queues[topic] = form.format(random.choice(words()["topics"][topic])) if own else common
    return queues


def _distinct(labels: dict[str, str], random: Random) -> tuple[str, ...]:
    values = {" ".join(label.casefold().split()): label for label in labels.values()}
    # Two spellings of one label would make a mistaken schema; the names in the YAML differ by more than case.
    ordered = sorted(values.values())
    random.shuffle(ordered)
    return tuple(ordered)


def _description(random: Random) -> str:
    return str(random.choice(words()["descriptions"]))
