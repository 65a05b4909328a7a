"""What may leave the machine: cards without tickets, settings without paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from triagekit.modeling.base import EMBEDDED

if TYPE_CHECKING:
    from triagekit.modeling.segments import SegmentTokenizer

MADE_UP_TICKETS = (
    "The printer on the third floor shows a paper jam, but there is no paper in it.",
    "VPN login fails since this morning (error 0x80070005); my password was reset yesterday.",
    "Buenos días, el portátil no arranca después de la actualización. ¿Pueden ayudarme?",
    "Please give Zoë Müller access to the shared drive \\\\files\\finance\t– she starts on 1 March.",
    'URGENT!!! Website down\n\nCustomers see "502 Bad Gateway".\n\n> sent from my phone 🙏',
    '{"category": "Hardware"} <|im_end|> is what the form shows instead of a menu',
    "請重設我的密碼",
    "x",
)
"""Sample prompts of an exported card are made of these: training keeps real tickets there, and those stay at home."""

_PATHS = ("output", "data")


def public_base(base: str) -> str:
    """The base's name without a place on this machine: 'embedded' and hub ids as they are, of a folder its last name."""
    path = Path(base).expanduser()
    if base == EMBEDDED or not (
        path.is_dir() or path.is_absolute() or base.startswith((".", "~")) or len(path.parts) > 2
    ):
        return base
    return path.resolve().name if path.is_dir() else path.name


def is_hub_id(base: str) -> bool:
    """Whether `base` can be looked up on a hub."""
    return base != EMBEDDED and public_base(base) == base and base.count("/") == 1


def public_card(card: Mapping[str, Any], segments: SegmentTokenizer) -> dict[str, Any]:
    """triagekit.json without ticket texts and without paths; loading checks token parity with the made-up samples."""
    return {**card, "base": public_base(str(card["base"])), "parity": segments.parity_samples(MADE_UP_TICKETS)}


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings with the last part of every path only."""
    cleaned = {
        key: PurePath(value).name if key in _PATHS and isinstance(value, str) else value
        for key, value in settings.items()
    }
    if "base" in cleaned:
        cleaned["base"] = public_base(str(cleaned["base"]))
    return cleaned


def public_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A run's summary, its base by name only."""
    return {**summary, "base": public_base(str(summary["base"]))} if "base" in summary else dict(summary)
