"""Spans of time: as people write them (`4h`), as Slurm writes them (`1-12:00:00`), and in seconds."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_WORDS = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)")
_SLURM = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def parse_duration(text: str) -> int:
    """Seconds of `90m`, `4h`, `1d12h`, or of Slurm's own forms: `30` (minutes), `30:00`, `4:00:00`, `1-12`, `1-12:00:00`.

    Raises ValueError for anything else.
    """
    plain = text.strip().lower()
    if plain and not _WORDS.sub("", plain).strip():
        return round(sum(float(number) * _UNITS[unit] for number, unit in _WORDS.findall(plain)))
    match = _SLURM.fullmatch(plain)
    if not match:
        raise ValueError(f"'{text}' is not a span of time; write e.g. 90m, 4h, 1d12h or 1-12:00:00")
    days, *rest = match.groups()
    first, second, third = (int(part or 0) for part in rest)
    if days is not None:
        return int(days) * 86400 + first * 3600 + second * 60 + third
    if match[4] is not None:
        return first * 3600 + second * 60 + third
    return first * 60 + second


def slurm_time(seconds: int) -> str:
    """Seconds as Slurm's `HH:MM:SS`, or `D-HH:MM:SS` from one day on."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def in_words(seconds: float) -> str:
    """For people, two units at most: `now`, `40 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    whole = round(seconds)
    if whole <= 0:
        return "now"
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
