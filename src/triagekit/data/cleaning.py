"""Small repairs of text that lose nothing a reader would miss; every kind of repair is counted by name."""

from __future__ import annotations

import datetime
import json
import math
import re
from typing import Any

from triagekit.errors import TriageError

MOJIBAKE = "mojibake repaired"
ESCAPES = "spreadsheet escapes undone"
CONTROLS = "control characters removed"

# Spreadsheets write control characters as "_x000D_"; those of 80-9F are the missing bytes of broken UTF-8.
_SPREADSHEET_ESCAPE = re.compile("_x(00[0189][0-9A-Fa-f]|007[Ff])_")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_LINE_END = re.compile("\r\n?|\x85|\u2028|\u2029")


def clean_text(text: str, mend_mojibake: bool = True) -> tuple[str, tuple[str, ...]]:
    """`text` with its encoding accidents undone (ftfy), control characters out, line ends as "\\n", ends stripped.

    Returns the text and the names of the repairs that changed it; line ends and outer space are not repairs.
    """
    repairs: list[str] = []
    if "_x00" in text and _SPREADSHEET_ESCAPE.search(text):
        text = _SPREADSHEET_ESCAPE.sub(lambda match: chr(int(match.group(1), 16)), text)
        repairs.append(ESCAPES)
    if not text.isascii() and mend_mojibake:
        fixed = _fix_encoding(text)
        if fixed != text:
            repairs.append(MOJIBAKE)
            text = fixed
    if "\r" in text or not text.isascii():
        text = _LINE_END.sub("\n", text)
    without = _CONTROL.sub("", text)
    if without != text:
        repairs.append(CONTROLS)
    return without.strip(), tuple(repairs)


def _fix_encoding(text: str) -> str:
    try:
        from ftfy import fix_encoding
    except ImportError:
        raise TriageError("Repairing mojibake needs ftfy: pip install triagekit[data]") from None
    return str(fix_encoding(text))


def as_text(value: Any) -> str:
    """A cell as text: None and NaN are empty, 4.0 is "4", lists are joined by ", "."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, list | tuple):
        return ", ".join(as_text(item) for item in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    return str(value)
