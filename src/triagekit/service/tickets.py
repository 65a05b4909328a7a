"""The body of a request to tickets: strict JSON, strict shapes, every mistake named at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from triagekit.errors import nearest
from triagekit.service.problems import MOST_PROBLEMS, BodyProblem, Refusal, kind_of, shown
from triagekit.service.settings import ServeSettings

LONGEST_ID = 256
SHAPE = '{"text": …} with an optional "id", or {"tickets": [{"text": …}, …]}'
_LONGEST_COMPARED = 40
_TICKET_KEYS = ("text", "id")
_TITLE = "The body is not what this service reads; nothing of it was scored."


@dataclass(frozen=True)
class GivenTicket:
    """One ticket of a request."""

    id: str | int | None
    text: str


class _NotStrict(ValueError):
    """JSON that Python would read although the standard does not have it, or that has two meanings."""


def read_request(body: bytes, settings: ServeSettings) -> list[GivenTicket]:
    """The tickets of a body. Raises Refusal: 400 where it is no JSON, 422 where the JSON is another than asked for."""
    value = _json(body)
    problems: list[BodyProblem] = []
    if not isinstance(value, dict):
        raise _unprocessable([BodyProblem("$", kind_of(value), SHAPE)])
    if "tickets" not in value:
        ticket = _ticket(value, "$", settings, problems, ("text", "id", "tickets"))
        tickets = [ticket] if ticket else []
    else:
        tickets = _many(value, settings, problems)
    if problems:
        raise _unprocessable(problems)
    return tickets


def _many(value: Mapping[str, Any], settings: ServeSettings, problems: list[BodyProblem]) -> list[GivenTicket]:
    _unknown_keys(value, "$", ("tickets",), problems)
    given = value["tickets"]
    if not isinstance(given, list):
        problems.append(BodyProblem("$.tickets", kind_of(given), "an array of tickets"))
        return []
    if not 1 <= len(given) <= settings.max_tickets:
        problems.append(BodyProblem("$.tickets", kind_of(given), f"1 to {settings.max_tickets:,} tickets a request"))
        return []
    tickets = [_ticket(item, f"$.tickets[{place}]", settings, problems) for place, item in enumerate(given)]
    return [ticket for ticket in tickets if ticket]


def _ticket(
    value: Any,
    where: str,
    settings: ServeSettings,
    problems: list[BodyProblem],
    keys: tuple[str, ...] = _TICKET_KEYS,
) -> GivenTicket | None:
    if not isinstance(value, dict):
        problems.append(BodyProblem(where, kind_of(value), 'an object {"text": …} with an optional "id"'))
        return None
    before = len(problems)
    _unknown_keys(value, where, keys, problems)
    if "text" not in value:
        problems.append(BodyProblem(where, kind_of(value), "the key 'text'" if where != "$" else SHAPE))
    elif not isinstance(value["text"], str):
        problems.append(BodyProblem(f"{where}.text", kind_of(value["text"]), "text"))
    elif len(value["text"]) > settings.max_characters:
        expected = f"at most {settings.max_characters:,} characters"
        problems.append(BodyProblem(f"{where}.text", kind_of(value["text"]), expected))
    identity = value.get("id")
    if not _is_identity(identity):
        expected = f"text of at most {LONGEST_ID} well-formed characters, a whole number below 2^53, or null"
        problems.append(BodyProblem(f"{where}.id", kind_of(identity), expected))
    return GivenTicket(identity, value["text"]) if len(problems) == before else None


def _is_identity(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_ID and not any("\ud800" <= character <= "\udfff" for character in value)
    # Beyond 2^53 other JSON readers would hand back another number.
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53)


def _unknown_keys(value: Mapping[str, Any], where: str, keys: tuple[str, ...], problems: list[BodyProblem]) -> None:
    for name in value:
        if name not in keys:
            # A body may hold a hundred thousand such keys, and comparing words is slow.
            match = nearest(name[:_LONGEST_COMPARED], keys) if len(problems) < MOST_PROBLEMS else None
            hint = f" (did you mean '{match}'?)" if match else ""
            problems.append(BodyProblem(where, f"the key {shown(name)}", f"only {', '.join(keys)}{hint}"))


def _json(body: bytes) -> Any:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        given = f"byte 0x{body[error.start]:02x} at offset {error.start}, which is not UTF-8"
        raise _malformed(given, "JSON in UTF-8") from None
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except _NotStrict as error:
        raise _malformed(str(error), "JSON (RFC 8259) with every key once") from None
    except json.JSONDecodeError as error:
        what = "an empty body" if not text.strip() else f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise _malformed(what, f"JSON: {SHAPE}") from None
    except RecursionError:
        raise _malformed("arrays or objects nested hundreds deep", f"JSON: {SHAPE}") from None
    except ValueError:
        raise _malformed("a number of thousands of digits", f"JSON: {SHAPE}") from None


def _no_constant(name: str) -> Any:
    raise _NotStrict(f"{name}, which is no JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _NotStrict(f"the key {shown(twice)} twice in one object")
    return result


def _malformed(given: str, expected: str) -> Refusal:
    return Refusal(400, "malformed", "The body is no JSON.", [BodyProblem("$", given, expected)])


def _unprocessable(problems: list[BodyProblem]) -> Refusal:
    return Refusal(422, "unprocessable", _TITLE, problems)
