"""Tickets as a person hands them over: words of a command, lines of a file or of stdin, JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from triagekit.errors import Problem, ProblemsError, TriageError, did_you_mean


def read_tickets(
    texts: Sequence[str], file: Path | None, stdin: TextIO, whole: bool = False, text_column: str = "text"
) -> list[str]:
    """The tickets, from exactly one place: `texts`, else `file`, else `stdin`.

    One a line; where the first line is a JSON object, every line must be one, with the text in `text_column`. Blank
    lines between tickets are no tickets. Raises TriageError where there are none, ProblemsError naming every bad line.
    """
    if texts:
        if file is not None:
            raise TriageError("Give tickets as words or by --file, not both.")
        return list(texts)
    name = "stdin" if file is None else str(file)
    if file is None and stdin.isatty():
        raise TriageError(
            'No ticket given. Add one in quotes, or --file FILE, or pipe some in: echo "…" | triage predict'
        )
    try:
        content = stdin.read() if file is None else file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TriageError(f"No file at {file}.") from None
    except UnicodeDecodeError as error:
        raise TriageError(f"{name} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise TriageError(f"Cannot read {name}: {error.strerror}.") from None
    if whole:
        return [content]
    # Only \n ends a line: other separators of Unicode occur inside tickets.
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
    if not lines:
        raise TriageError(f"{name} holds no ticket.")
    if lines[0][1].lstrip().startswith("{"):
        return _json_lines(name, lines, text_column)
    return [line for _, line in lines]


def _json_lines(name: str, lines: Sequence[tuple[int, str]], text_column: str) -> list[str]:
    texts: list[str] = []
    problems: list[Problem] = []
    for number, line in lines:
        try:
            value = json.loads(line)
        except ValueError as error:
            problems.append(Problem(f"{name}:{number}", f"not JSON: {error}."))
            continue
        if not isinstance(value, dict):
            problems.append(Problem(f"{name}:{number}", "not a JSON object."))
        elif not isinstance(value.get(text_column), str):
            hint = did_you_mean(text_column, value) if text_column not in value else "It must be text."
            problems.append(Problem(f"{name}:{number}", f"no text in column '{text_column}'.", hint))
        else:
            texts.append(value[text_column])
    if problems:
        raise ProblemsError(f"{name} has lines that are not tickets:", problems)
    return texts
