"""From what a model wrote to a record: tolerant of everything around and inside the JSON, and honest about repairs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from triagekit.schema.compact import read_compact
from triagekit.schema.schema import Schema
from triagekit.schema.tolerant_json import MAX_DEPTH, NotJson, TolerantReader
from triagekit.schema.validate import FieldProblem, Verdict, validate_record, verdict

MAX_CANDIDATES = 200
"""Objects of one text that are looked at. A model that writes more is not answering."""
MAX_CHARACTERS_READ = 400_000
"""Characters that the tolerant reader looks at in one text, over all its objects: under a second."""

_FENCE = re.compile(r"```[A-Za-z0-9_-]*")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class ParsedRecord:
    """What could be read from a model's text.

    `record` is the object as it stands in the text (known keys first, in the schema's order), valid or not; None if
    there is none. `repairs` names everything that kept the text from being nothing but that object in strict JSON.
    `raw` is the text itself, kept so that nothing is lost where reading failed.
    """

    record: dict[str, Any] | None
    repairs: tuple[str, ...]
    problems: tuple[FieldProblem, ...]
    verdict: Verdict
    raw: str


@dataclass(frozen=True)
class _Candidate:
    value: dict[str, Any]
    repairs: tuple[str, ...]
    start: int
    end: int


def parse_record(schema: Schema, text: str) -> ParsedRecord:
    """The object in `text` that is most like a record of `schema`, with its repairs, problems and verdict.

    In the compact format the values on the lines of `text` are read, where it has enough of them. Among several objects
    the one with the most valid fields wins, then the one with the most known fields, then the first. Values are not
    changed, except that what JSON cannot hold (NaN, halves of UTF-16 pairs, endless nesting) is replaced and named.
    Never raises, whatever the text.
    """
    written = read_compact(schema, text) if schema.format == "compact" else None
    if written is not None:
        compact_problems = tuple(validate_record(schema, written[0]))
        return ParsedRecord(written[0], written[1], compact_problems, verdict(compact_problems), text)
    candidates = list(_candidates(schema, text))
    if not candidates:
        found = FieldProblem("", text[:200], _nothing_found(schema, text))
        return ParsedRecord(None, (), (found,), verdict([found], parsed=False), text)
    best = max(candidates, key=lambda candidate: _likeness(schema, candidate.value))
    repairs = dict.fromkeys(best.repairs)
    if not repairs.keys() & {_FROM_LIST, _FROM_STRING}:
        repairs = dict.fromkeys([*_surroundings(text, best), *repairs])
    outermost = {(candidate.start, candidate.end) for candidate in candidates}
    if len(outermost) > 1:
        repairs[f"picked one of {len(outermost)} objects"] = None
    value = _writable(best.value, repairs)
    record = {name: value[name] for name in schema.field_names if name in value}
    record |= {key: item for key, item in value.items() if key not in record}
    problems = tuple(validate_record(schema, record))
    return ParsedRecord(record, tuple(repairs), problems, verdict(problems), text)


def _nothing_found(schema: Schema, text: str) -> str:
    if schema.format == "json":
        return "there is no JSON object in the text."
    lines = len(text.splitlines())
    return f"there are {lines} lines in the text, fewer than the record's {len(schema.fields)} values."


_FROM_LIST = "took the only object of a list"
_FROM_STRING = "unwrapped JSON from inside a JSON text"


def _candidates(schema: Schema, text: str) -> Iterator[_Candidate]:
    whole = _whole(text)
    if whole is not None:
        yield from _with_inner(schema, whole)
        return
    budget = min(8 * len(text), MAX_CHARACTERS_READ) + 10_000
    start, count = text.find("{"), 0
    while start >= 0 and count < MAX_CANDIDATES and budget > 0:
        count += 1
        candidate = _strict(text, start)
        if candidate is None:
            reader = TolerantReader(text, budget)
            try:
                value = reader.read_object(start)
            except NotJson:
                value = {}
            budget = reader.budget
            # What is only JSON after mending may be chatter such as {name: see below}; it must look like the record.
            if _is_like(schema, value) or any(_is_like(schema, inner) for _, inner in _inner_objects(value)):
                candidate = _Candidate(value, tuple(reader.repairs), start, reader.position)
        if candidate is not None:
            yield from _with_inner(schema, candidate)
        start = text.find("{", candidate.end if candidate else start + 1)


def _whole(text: str, depth: int = 0) -> _Candidate | None:
    """The text as one strict JSON value: an object, a list of one object, or a JSON text that holds one of these."""
    try:
        repairs: dict[str, None] = {}
        value = _decoder(repairs).decode(text.strip())
    except (ValueError, RecursionError):
        return None
    if isinstance(value, str) and depth < 3:
        inner = _whole(value, depth + 1)
        return inner and _Candidate(inner.value, (_FROM_STRING, *inner.repairs), 0, len(text))
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        return _Candidate(value[0], (_FROM_LIST, *repairs), 0, len(text))
    return _Candidate(value, tuple(repairs), 0, len(text)) if isinstance(value, dict) else None


def _strict(text: str, start: int) -> _Candidate | None:
    repairs: dict[str, None] = {}
    try:
        value, end = _decoder(repairs).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return _Candidate(value, tuple(repairs), start, end) if value else None


def _decoder(repairs: dict[str, None]) -> json.JSONDecoder:
    def read_constant(name: str) -> None:
        repairs[f"read {name} as null"] = None

    def read_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            repairs[f"kept the last of several '{twice[:40]}'"] = None
        return value

    return json.JSONDecoder(parse_constant=read_constant, object_pairs_hook=read_pairs)


def _with_inner(schema: Schema, candidate: _Candidate) -> Iterator[_Candidate]:
    """The candidate, and the objects inside it that look like a record: models like to write {"ticket": {…}}."""
    yield candidate
    if _is_like(schema, candidate.value):
        return
    for key, value in _inner_objects(candidate.value):
        if _is_like(schema, value):
            repairs = (*candidate.repairs, f"took the object under '{key[:40]}'")
            yield _Candidate(value, repairs, candidate.start, candidate.end)


def _inner_objects(value: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and object for every object inside `value`, down to three levels, also those that are items of arrays."""
    level = [value]
    for _ in range(3):
        inner = [
            (key, item)
            for outer in level
            for key, held in outer.items()
            for item in (held if isinstance(held, list) else [held])
            if isinstance(item, dict)
        ]
        yield from inner
        level = [item for _, item in inner]


def _is_like(schema: Schema, value: dict[str, Any]) -> bool:
    return any(key in schema.by_name for key in value)


def _likeness(schema: Schema, value: dict[str, Any]) -> tuple[int, int]:
    known = sum(name in value for name in schema.field_names)
    wrong = {problem.field for problem in validate_record(schema, value)}
    return sum(name in value and name not in wrong for name in schema.field_names), known


def _surroundings(text: str, candidate: _Candidate) -> Iterator[str]:
    before, after = text[: candidate.start], text[candidate.end :]
    if _FENCE.search(before) or _FENCE.search(after):
        yield "removed a code fence"
        before, after = _FENCE.sub("", before), _FENCE.sub("", after)
    if before.strip():
        yield "removed text before the object"
    if after.strip():
        yield "removed text behind the object"


def _writable(value: Any, repairs: dict[str, None], depth: int = 0) -> Any:
    """The value without what cannot be written as JSON in UTF-8; what was replaced is noted in `repairs`."""
    if isinstance(value, str):
        if not _SURROGATE.search(value):
            return value
        repairs["replaced half of a UTF-16 pair"] = None
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        repairs["read a number too large as null"] = None
        return None
    if isinstance(value, dict | list) and depth > MAX_DEPTH:
        repairs["cut off deep nesting"] = None
        return None
    if isinstance(value, dict):
        return {_writable(key, repairs): _writable(item, repairs, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_writable(item, repairs, depth + 1) for item in value]
    return value
