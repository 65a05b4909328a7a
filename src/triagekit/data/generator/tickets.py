"""Tickets with their records, from template families: deterministic by seed, unique, train and test kept apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import Literal

from triagekit.data.generator.catalogue import PRIORITIES, Families, Family, Phrases, families, phrases, slot_values
from triagekit.data.generator.noise import add_noise
from triagekit.errors import TriageError

SCHEMA = "it_tickets"
_SLOT = re.compile(r"<([a-z_]+)>")
_ATTEMPTS = 20
# Chance of each effect sentence (from "can wait" to "everything stands still") by the usual severity of the kind.
_EFFECTS: dict[int, tuple[tuple[int, float], ...]] = {
    1: ((-1, 0.40), (0, 0.40), (1, 0.20), (2, 0.00)),
    2: ((-1, 0.25), (0, 0.35), (1, 0.32), (2, 0.08)),
    3: ((-1, 0.15), (0, 0.30), (1, 0.37), (2, 0.18)),
    4: ((-1, 0.15), (0, 0.35), (1, 0.30), (2, 0.20)),
}
# Priority level by usual severity and effect: the stated effect decides, a grave or trivial issue shifts it by one.
_LEVELS: dict[int, dict[int, int]] = {
    1: {-1: 1, 0: 1, 1: 2, 2: 3},
    2: {-1: 1, 0: 2, 1: 3, 2: 4},
    3: {-1: 2, 0: 3, 1: 3, 2: 4},
    4: {-1: 3, 0: 4, 1: 4, 2: 4},
}
# Chance of an urgent or annoyed tone by final priority. The first two are the misleading ones: loud, but not grave.
_URGENT_TONE = {"Low": 0.05, "Medium": 0.10, "High": 0.35, "Critical": 0.65}
_FRUSTRATED = {"Low": 0.05, "Medium": 0.10, "High": 0.22, "Critical": 0.25}


def generate_tickets(
    rows: int,
    seed: int,
    families: Families = "all",
    schema: str = SCHEMA,
    spanish_share: float = 0.15,
) -> Iterator[dict[str, str]]:
    """Yield `rows` tickets: id, text, the six fields of it_tickets, language ("en", "es") and family.

    `families` chooses the template families: those for training, those for testing (no wording in common), or both.
    Texts are unique unless twenty draws in a row repeat one. Raises TriageError for another schema or a wrong number.
    """
    if schema != SCHEMA:
        raise TriageError(f"The generator writes tickets for the schema '{SCHEMA}' only, not for '{schema}'.")
    if rows < 0 or not 0.0 <= spanish_share <= 1.0:
        raise TriageError(f"rows must be 0 or more and spanish_share in 0-1 (given: {rows}, {spanish_share}).")
    random = Random(f"tickets/{seed}/{families}")
    pools = {language: _pool(language, families) for language in ("en", "es")}
    seen: set[str] = set()
    for index in range(rows):
        for _ in range(_ATTEMPTS):
            language = "es" if random.random() < spanish_share else "en"
            ticket = compose(random.choice(pools[language]), random)
            if ticket["text"] not in seen:
                break
        seen.add(ticket["text"])
        yield {"id": f"T{seed}-{index:06d}", **ticket}


def _pool(language: str, part: Families) -> list[Family]:
    return [family for family in families() if family.language == language and part in ("all", family.part)]


def compose(family: Family, random: Random) -> dict[str, str]:
    """One ticket of a family: {"text", the six fields, "language", "family"}."""
    kind, words = family.kind, phrases(family.language, family.part)
    slots = Slots(random, 1 if family.language == "es" else 0)
    symptom = slots.fill(" ".join([family.wording, *_mentions(family, words, random)]))
    frame = random.choice(words.frames)
    # Without a word about its effect an issue has its usual severity.
    points = _weighted(_EFFECTS[kind.severity], random) if "<effect>" in frame else 0
    if kind.request_type == "Service Request":
        # Nobody sends the staff home for want of a new mouse.
        points = min(points, 1)
    priority = PRIORITIES[_LEVELS[kind.severity][points] - 1]
    effect = random.choice(words.effects[points])
    if points == 0 and random.random() < 0.4:
        effect = ""
    tone = random.choice(words.urgent_tone) if random.random() < _URGENT_TONE[priority] else ""
    complaint = random.choice(words.frustrated) if random.random() < _FRUSTRATED[priority] else ""
    details = " ".join(random.sample(words.details, random.choice((0, 0, 0, 1, 1, 2))))
    subject = random.choice(words.subjects) if random.random() < 0.6 else _headline(symptom)
    pieces = {
        "symptom": f"{tone} {symptom} {complaint}".strip(),
        "effect": effect,
        "details": details,
        "subject": subject,
        "area": random.choice(words.areas[kind.topic]),
        "opener": random.choice(words.openers),
        "closer": random.choice(words.closers),
    }
    # Other mentions of a person or a team are other people: only the symptom's slots reach the summary.
    others = Slots(random, slots.side)
    text = _SLOT.sub(lambda match: pieces.get(match.group(1), match.group()), frame)
    text = add_noise(_tidy(others.fill(text)), family.language, words.abbreviations, random)
    return {
        "text": text,
        "summary": _sentence(slots.fill(kind.summary, english=True)),
        "category": kind.category,
        "subcategory": kind.subcategory,
        "priority": priority,
        "assignment_group": kind.assignment_group,
        "request_type": kind.request_type,
        "language": family.language,
        "family": family.name,
    }


def _mentions(family: Family, words: Phrases, random: Random) -> list[str]:
    """Sentences for what the summary names and the wording leaves out: a record holds nothing that the text does not."""
    missing = set(_SLOT.findall(family.kind.summary)) - set(_SLOT.findall(family.wording))
    return [random.choice(words.mentions[slot]) for slot in sorted(missing)]


class Slots:
    """Values of the slots of one ticket: the same slot has the same value wherever it is filled."""

    def __init__(self, random: Random, side: Literal[0, 1]) -> None:
        self.random = random
        self.side: Literal[0, 1] = side
        self._values: dict[str, tuple[str, str]] = {}

    def fill(self, template: str, english: bool = False) -> str:
        """The template with every <slot> replaced, in the ticket's language or in English."""
        side = 0 if english else self.side
        return _SLOT.sub(lambda match: self._value(match.group(1))[side], template)

    def _value(self, name: str) -> tuple[str, str]:
        if name not in self._values:
            if name == "person":
                full = f"{self._draw('first')[0]} {self._draw('last')[0]}"
                self._values[name] = (full, full)
            else:
                self._values[name] = self._draw(name)
        return self._values[name]

    def _draw(self, name: str) -> tuple[str, str]:
        english, spanish = self.random.choice(slot_values()[name])
        # One seed for both sides, so that a number is the same in either language.
        seed = self.random.random()
        return _characters(english, Random(seed)), _characters(spanish, Random(seed))


def _characters(pattern: str, random: Random) -> str:
    drawn = {"^": "0123456789", "@": "ABCDEFGHKLMNPRSTUVWX"}
    return "".join(random.choice(drawn[character]) if character in drawn else character for character in pattern)


def _weighted(options: tuple[tuple[int, float], ...], random: Random) -> int:
    values, weights = zip(*options, strict=True)
    return int(random.choices(values, weights)[0])


def _headline(symptom: str) -> str:
    words = symptom.rstrip(".?!").split()
    return " ".join(words[:6])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _tidy(text: str) -> str:
    lines = [re.sub(r" {2,}", " ", line).strip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
