"""How people really type: typos, abbreviations, missing accents, odd casing and punctuation."""

from __future__ import annotations

import re
import unicodedata
from random import Random

_WORD = re.compile(r"[^\W\d_]{4,}")
_NEIGHBOURS = {
    "a": "s", "b": "v", "c": "x", "d": "f", "e": "r", "f": "g", "g": "h", "h": "j", "i": "o", "j": "k", "k": "l", "l": "k",
    "m": "n", "n": "m", "o": "p", "p": "o", "q": "w", "r": "t", "s": "d", "t": "y", "u": "i", "v": "b", "w": "e", "x": "c",
    "y": "u", "z": "x",
}  # fmt: skip


def add_noise(text: str, language: str, abbreviations: tuple[tuple[str, str], ...], random: Random) -> str:
    """The text as a person in a hurry would type it; about a third of all texts come back untouched."""
    if random.random() < 0.30:
        text = add_typos(text, random, rate=random.choice((0.02, 0.04, 0.08)))
    if random.random() < 0.25:
        text = abbreviate(text, abbreviations, random)
    if language == "es" and random.random() < 0.25:
        text = without_accents(text)
    draw = random.random()
    if draw < 0.15:
        text = text.lower()
    elif draw < 0.18:
        text = text.upper()
    if random.random() < 0.08:
        text = text.replace(".", "")
    elif random.random() < 0.05:
        text = text.replace(". ", "... ")
    return text


def add_typos(text: str, random: Random, rate: float) -> str:
    """Swap, drop, double or mistype one letter in a share `rate` of the words of four letters or more."""

    def mistype(match: re.Match[str]) -> str:
        word = match.group()
        if random.random() >= rate:
            return word
        # The first letter stays: people rarely get that one wrong, and names stay recognisable.
        place = random.randrange(1, len(word) - 1)
        before, letter, after = word[:place], word[place], word[place + 1 :]
        how = random.randrange(4)
        if how == 0:
            return before + after[:1] + letter + after[1:]
        if how == 1:
            return before + after
        if how == 2:
            return before + letter + letter + after
        return before + _NEIGHBOURS.get(letter.lower(), letter) + after

    return _WORD.sub(mistype, text)


def abbreviate(text: str, abbreviations: tuple[tuple[str, str], ...], random: Random) -> str:
    """Replace about half of the words that have a usual short form."""
    for long, short in abbreviations:
        if random.random() < 0.5:
            text = re.sub(rf"\b{re.escape(long)}\b", short.replace("\\", ""), text, flags=re.IGNORECASE)
    return text


def without_accents(text: str) -> str:
    """Spanish typed on a foreign keyboard: á → a, ñ → n, ¿ and ¡ left out."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return plain.replace("¿", "").replace("¡", "")
