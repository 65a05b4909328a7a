"""A schema as the text of a YAML file, written by hand: readable, in the house's layout, without needing PyYAML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from triagekit.schema.schema import Schema, field_to_dict

WIDTH = 120
_PLAIN = re.compile(r"[A-Za-zÀ-ɏ][A-Za-z0-9À-ɏ _/&().+-]*(?<! )")
_READ_AS_OTHER = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_ESCAPED = re.compile(r'["\\\x00-\x1f\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]')
_NAMED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}

Notes = Mapping[tuple[str, ...], str]
"""Comments by place: (field,) above the field, (field, value) or (field, parent, value) behind the value."""


def schema_yaml(schema: Schema, notes: Notes | None = None, head: Sequence[str] = ()) -> str:
    """YAML text that load_schema reads back equal. `head` lines become comments at its top."""
    notes = notes or {}
    lines = [f"# {line}".rstrip() for line in head]
    lines += [f"name: {quoted(schema.name)}"]
    lines += [f"{key}: {quoted(text)}" for key in ("title", "description") if (text := getattr(schema, key))]
    lines += [f"format: {schema.format}"] if schema.format != "json" else []
    lines += ["", "instructions:", *(f"  - {quoted(text)}" for text in schema.instructions), "", "fields:"]
    blocks = [_field_lines(field_to_dict(a_field), notes) for a_field in schema.fields]
    return "\n".join([*lines, "\n\n".join("\n".join(block) for block in blocks)]) + "\n"


def quoted(text: str) -> str:
    """`text` as a YAML scalar: plain where that is safe, else in double quotes."""
    if _PLAIN.fullmatch(text) and text.casefold() not in _READ_AS_OTHER:
        return text
    return '"' + _ESCAPED.sub(lambda match: _NAMED.get(match[0]) or f"\\u{ord(match[0]):04x}", text) + '"'


def _field_lines(data: dict[str, Any], notes: Notes) -> list[str]:
    name = data["name"]
    lines = [f"  # {note}" for note in notes.get((name,), "").splitlines()]
    for key, value in data.items():
        lead = "  - " if key == "name" else "    "
        if isinstance(value, list):
            lines += _list_lines(f"{lead}{key}:", value, (name,), notes)
        elif isinstance(value, dict) and key == "values":
            lines.append(f"{lead}{key}:")
            for parent, values in value.items():
                lines += _list_lines(f"{lead}  {quoted(parent)}:", values, (name, parent), notes)
        elif isinstance(value, dict):
            lines.append(f"{lead}{key}:")
            lines += [f"{lead}  {quoted(alias)}: {quoted(target)}" for alias, target in value.items()]
        elif isinstance(value, bool):
            lines.append(f"{lead}{key}: {'true' if value else 'false'}")
        else:
            lines.append(f"{lead}{key}: {value if isinstance(value, int) else quoted(value)}")
    return lines


def _list_lines(lead: str, values: Sequence[str], place: tuple[str, ...], notes: Notes) -> list[str]:
    """One line if it fits and no value has a note, else one line for each value."""
    scalars = [quoted(value) for value in values]
    comments = [notes.get((*place, value), "") for value in values]
    one_line = f"{lead} [{', '.join(scalars)}]"
    if not any(comments) and len(one_line) <= WIDTH:
        return [one_line]
    indent = " " * (len(lead) - len(lead.lstrip()) + 2)
    if not any(comments):
        return [lead, *(f"{indent}- {scalar}" for scalar in scalars)]
    width = min(max(len(scalar) for scalar in scalars), 40)
    items = [
        f"{indent}- {scalar:<{width}}  # {comment}" if comment else f"{indent}- {scalar}"
        for scalar, comment in zip(scalars, comments, strict=True)
    ]
    return [lead, *items]
