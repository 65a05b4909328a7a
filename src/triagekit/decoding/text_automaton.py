"""Free text as an automaton over token bytes: which tokens may follow, and how many characters each one costs."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from triagekit.errors import TriageError
from triagekit.schema.canonical import normalise_text

START = 0
"""Nothing written yet: neither a space nor the end may come."""
NORMAL = 1
"""At least one character stands, and none is half written: the text may end here."""
SPACE = 2
"""As NORMAL, after a space: no second one follows, because canonical text has single spaces."""
ESCAPE = 3
"""After a backslash: only a quote or a backslash may follow, as canonical JSON escapes nothing else in such text. No
state of text without escapes."""
FIRST_PARTIAL = 4
"""States from here on stand inside a UTF-8 character."""

FORBIDDEN = np.iinfo(np.uint16).max
"""Cost of a token that may not follow."""

_DEAD = -1


@dataclass(frozen=True)
class TextAutomaton:
    """Token-level transitions, one row per state.

    `cost[state, token]` (uint16): characters the token starts, FORBIDDEN where it may not follow.
    `target[state, token]` (uint8): the state after it.
    Both have shape [states, vocabulary].
    """

    cost: np.ndarray
    target: np.ndarray

    def shortest(self) -> int:
        """The fewest characters with which a text can be written."""
        return int(self.cost[START].min())


def compile_text_automaton(vocabulary: Sequence[bytes | None], escapes: bool = True) -> TextAutomaton:
    """Run every token from every state. `escapes`: the text stands inside a JSON string; else nothing in it is escaped.

    Tokens that would leave a character that nothing can complete are forbidden.

    Raises TriageError if no text at all can be written with this vocabulary.
    """
    byte_target, byte_cost = _byte_tables(escapes)
    states = len(byte_target)
    size = len(vocabulary)
    target = np.full((states, size), _DEAD, dtype=np.int16)
    cost = np.zeros((states, size), dtype=np.int32)
    usable = [(len(content), identity) for identity, content in enumerate(vocabulary) if content]
    usable.sort()
    identities = np.array([identity for _, identity in usable], dtype=np.int64)
    lengths = np.array([length for length, _ in usable], dtype=np.int64)
    joined = np.frombuffer(b"".join(vocabulary[identity] or b"" for identity in identities), dtype=np.uint8)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if len(lengths) else lengths
    for state in range(states):
        current = np.full(len(identities), state, dtype=np.int16)
        spent = np.zeros(len(identities), dtype=np.int32)
        for position in range(int(lengths.max(initial=0))):
            # Sorted by length: the tokens that have a byte at `position` are the last ones; dead ones need no more work.
            first = int(np.searchsorted(lengths, position, side="right"))
            alive = first + np.flatnonzero(current[first:] != _DEAD)
            if not len(alive):
                break
            byte = joined[offsets[alive] + position]
            spent[alive] += byte_cost[current[alive], byte]
            current[alive] = byte_target[current[alive], byte]
        target[state, identities] = current
        cost[state, identities] = spent
    return _keep_live(target, cost)


def _keep_live(target: np.ndarray, cost: np.ndarray) -> TextAutomaton:
    """Forbid what leads nowhere: a state is live if the text can be ended from it without starting another character."""
    states = len(target)
    live = np.zeros(states, dtype=bool)
    live[[NORMAL, SPACE]] = True
    while True:
        reaches = (target != _DEAD) & live[np.maximum(target, 0)]
        grown = live | (reaches & (cost == 0)).any(axis=1)
        if (grown == live).all():
            break
        live = grown
    allowed = (target != _DEAD) & live[np.maximum(target, 0)]
    if not allowed[START].any():
        raise TriageError("No token of this tokenizer can begin a text; a schema with text fields needs one that can.")
    return TextAutomaton(
        cost=np.where(allowed, np.minimum(cost, FORBIDDEN - 1), FORBIDDEN).astype(np.uint16),
        target=np.where(allowed, target, 0).astype(np.uint8),
    )


@lru_cache(maxsize=2)
def _byte_tables(escapes: bool) -> tuple[np.ndarray, np.ndarray]:
    """Transitions over bytes: well-formed UTF-8 without the control characters and spaces that canonical text never holds.

    Returns target int16 [states, 256] (-1: dead) and cost int32 [states, 256].
    """
    forbidden = _forbidden_characters()
    partial, representatives = _partial_states(forbidden)
    states = FIRST_PARTIAL + len(partial)
    target = np.full((states, 256), _DEAD, dtype=np.int16)
    cost = np.zeros((states, 256), dtype=np.int32)
    for state in (START, NORMAL, SPACE):
        target[state, 0x21:0x7F] = NORMAL
        if escapes:
            target[state, ord('"')] = _DEAD
            target[state, ord("\\")] = ESCAPE
        cost[state] = 1
    target[NORMAL, ord(" ")] = SPACE
    target[ESCAPE, [ord('"'), ord("\\")]] = NORMAL
    for lead in range(0xC2, 0xF5):
        target[START : SPACE + 1, lead] = partial[_partial_key(bytes([lead]), forbidden)]
    for prefix, state in representatives.items():
        for byte in _continuations(prefix):
            following = prefix + bytes([byte])
            if len(following) < _length_of(prefix[0]):
                target[state, byte] = partial[_partial_key(following, forbidden)]
            elif following not in forbidden:
                target[state, byte] = NORMAL
    return target, cost


def _partial_states(forbidden: frozenset[bytes]) -> tuple[dict[bytes | int, int], dict[bytes, int]]:
    """States inside a multi-byte character: key → state, and one prefix of each state → state."""
    states: dict[bytes | int, int] = {}
    representatives: dict[bytes, int] = {}
    waiting = [bytes([lead]) for lead in range(0xC2, 0xF5)]
    while waiting:
        prefix = waiting.pop()
        key = _partial_key(prefix, forbidden)
        if key in states:
            continue
        states[key] = representatives[prefix] = FIRST_PARTIAL + len(states)
        if len(prefix) + 1 < _length_of(prefix[0]):
            waiting.extend(prefix + bytes([byte]) for byte in _continuations(prefix))
    return states, representatives


def _partial_key(prefix: bytes, forbidden: frozenset[bytes]) -> bytes | int:
    """What decides how a begun character may go on: the number of missing bytes, or the prefix itself where special."""
    special = prefix in {b"\xe0", b"\xed", b"\xf0", b"\xf4"} or any(other.startswith(prefix) for other in forbidden)
    return prefix if special else _length_of(prefix[0]) - len(prefix)


def _continuations(prefix: bytes) -> range:
    """Bytes that may follow `prefix` in well-formed UTF-8 (Unicode 16, table 3-7)."""
    if len(prefix) > 1:
        return range(0x80, 0xC0)
    return range({0xE0: 0xA0, 0xF0: 0x90}.get(prefix[0], 0x80), {0xED: 0xA0, 0xF4: 0x90}.get(prefix[0], 0xC0))


def _length_of(lead: int) -> int:
    return 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


def _forbidden_characters() -> frozenset[bytes]:
    """Control characters and spaces other than U+0020, which canonical text never holds, as UTF-8.

    Letters that canonical text has composed may be written in parts: the record's text is composed when it is read.
    """
    candidates = (
        chr(code) for code in range(0x80, 0x110000) if unicodedata.category(chr(code)) in {"Cc", "Cf", "Zs", "Zl", "Zp"}
    )
    changed = (character for character in candidates if normalise_text(f"a{character}b", 3) != f"a{character}b")
    return frozenset(character.encode("utf-8") for character in changed)
