"""Three formats of earlier ticket fine-tuning projects, recognised by their keys and turned into flat columns.

- `{"instruction", "input", "output"}` with a JSON string (or `- Key: value` lines) as output,
- `{"messages": [{"role", "content"}, …]}` with the record as the assistant's content,
- `{"label": int, "text": str}`, usually in `train/data.json` and `test/data.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

PriorFormat = Literal["instruction", "messages", "label_text"]

_KEY_LINE = re.compile(r"^\s*[-*]\s*([^:\n]{1,60}):\s*(.*)$")
_PROBLEM_LINE = re.compile(r"^\s*[-*]\s*Problem:\s*(.*)\Z", re.MULTILINE | re.DOTALL)
_INSTRUCTION_KEYS = {"instruction", "input", "output", "id", "language", "source"}
_FENCE = re.compile(r"^```[a-zA-Z]*\s*|\s*```\s*$")


def recognise(values: Mapping[str, Any]) -> PriorFormat | None:
    """Which of the formats a row is in, or None."""
    kind = recognise_names(values)
    if kind == "messages" and not isinstance(values["messages"], list):
        return None
    if kind == "label_text" and not isinstance(values["label"], int | str):
        return None
    return kind


def recognise_names(names: Iterable[str]) -> PriorFormat | None:
    """Which of the formats a row with these columns may be in, or None."""
    keys = set(names)
    if "messages" in keys:
        return "messages"
    if "instruction" in keys and keys & {"input", "output"} and keys <= _INSTRUCTION_KEYS:
        return "instruction"
    if {"label", "text"} <= keys <= {"label", "text", "id"}:
        return "label_text"
    return None


def flatten(
    values: Mapping[str, Any], kind: PriorFormat, label_field: str | None = None, labelled: bool = True
) -> dict[str, Any]:
    """A row of format `kind` as flat columns: `text`, one column for each label, and what else stood beside them.

    `label_field` names the column that `{"label"}` becomes; where `labelled` is False, labels are not looked at.
    Raises ValueError saying what cannot be read.
    """
    if kind == "instruction":
        return _instruction(values, labelled)
    if kind == "messages":
        return _messages(values, labelled)
    flat = {key: value for key, value in values.items() if key != "label"}
    flat[label_field or "label"] = values["label"]
    return flat


def _instruction(values: Mapping[str, Any], labelled: bool) -> dict[str, Any]:
    rest = {key: value for key, value in values.items() if key not in ("instruction", "input", "output")}
    text = values.get("input")
    if not text:
        instruction = str(values.get("instruction") or "")
        problem = _PROBLEM_LINE.search(instruction)
        text = problem.group(1) if problem else instruction
    labels = labels_of(values.get("output"), "output") if labelled else {}
    return {**rest, **labels, "text": text}


def _messages(values: Mapping[str, Any], labelled: bool) -> dict[str, Any]:
    rest = {key: value for key, value in values.items() if key != "messages"}
    user: list[str] = []
    answer: Any = None
    for message in values["messages"]:
        if not isinstance(message, Mapping):
            raise ValueError("a message is not an object")
        content = message.get("content")
        if isinstance(content, list):
            content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
        if message.get("role") == "user":
            user.append(str(content or ""))
        elif message.get("role") == "assistant":
            answer = content
    if not user:
        raise ValueError("no message with role 'user'")
    labels = {} if answer is None or not labelled else labels_of(answer, "the assistant's content")
    return {**rest, **labels, "text": "\n".join(user)}


def labels_of(output: Any, where: str) -> dict[str, Any]:
    """Labels from a JSON object, a JSON string, or `- Key: value` lines. Raises ValueError naming `where`."""
    if isinstance(output, Mapping):
        return dict(output)
    if not isinstance(output, str) or not output.strip():
        raise ValueError(f"{where} is empty")
    text = _FENCE.sub("", output.strip())
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        lines = [_KEY_LINE.match(line) for line in text.splitlines() if line.strip()]
        found = {match.group(1).strip(): match.group(2).strip() for match in lines if match}
        if not found or lines[0] is None:
            raise ValueError(f"{where} is neither a JSON object nor '- Key: value' lines") from None
        return dict(found)
    if not isinstance(parsed, dict):
        raise ValueError(f"{where} holds JSON, but not an object")
    return parsed
