"""A reader of JSON as models write it: it reads on where a strict reader stops, and says what it had to mend.

Mended: single and typographic quotes, Python and JavaScript literals, bare keys and words, comments, missing and
trailing commas, quotes inside strings that nobody escaped, line breaks inside strings, and an end that is missing.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

MAX_DEPTH = 32
CLOSED = "closed what the text left open"

_BLANK = re.compile(r"(?:[\s\ufeff]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_CLOSING_QUOTES = {'"': '"', "'": "'", "`": "`", "“": '”“"', "„": '“”"', "‘": "’‘'", "«": "»"}
_CLOSERS = {opening: re.compile(rf"(?:[^\\{closing}]|\\.)*", re.DOTALL) for opening, closing in _CLOSING_QUOTES.items()}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?=[\s,}\]]|$)")
_STRICT_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?", re.ASCII)
_BARE_KEY = re.compile(r"[A-Za-z_][\w./ -]{0,60}?(?=\s*:)")
# What can follow the comma behind a text inside an object: the next key, the end, or the beginning of a cut-off key.
_NEXT_MEMBER = re.compile(r"""["'`“„‘«][^"'`”“’»\n]{0,80}(?:["'`”“’»]\s*:|$)|[A-Za-z_][\w./ -]{0,60}?\s*:|[},]|$""")
_BARE_WORD = re.compile(r"[^\s,{}\[\]\"'`:][^,{}\[\]\"`:\n]{0,200}")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.|$)", re.DOTALL)
_NAMED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_WORDS: dict[str, Any] = {
    "null": None, "none": None, "undefined": None, "nil": None, "nan": None, "infinity": None, "-infinity": None,
    "true": True, "false": False,
}  # fmt: skip


Place = Literal["key", "member", "item"]
"""Where a string stands: before a colon, behind one, or in an array."""


class NotJson(Exception):
    """The text at this place is no object, however generously it is read."""


class TolerantReader:
    """Reads one object of `text`. `repairs` names what was mended, in the order in which it was met."""

    def __init__(self, text: str, budget: int) -> None:
        self.text = text
        self.position = 0
        self.budget = budget
        self.repairs: dict[str, None] = {}

    def read_object(self, start: int) -> dict[str, Any]:
        """The object whose `{` is at `start`; `position` is then behind it. Raises NotJson."""
        self.position = start
        return self._object(0)

    def _object(self, depth: int) -> dict[str, Any]:
        self._enter(depth)
        members: dict[str, Any] = {}
        while True:
            sign = self._next_sign(members, "}")
            if sign in ("", "}"):
                return members
            key = self._key()
            if self._peek() != ":":
                if self._peek() == "":
                    self._mended(CLOSED)
                    return members
                raise NotJson
            self.position += 1
            if self._peek() == "":
                self._mended(CLOSED)
                return members
            if key in members:
                self._mended(f"kept the last of several '{key[:40]}'")
            members[key] = self._value(depth, "member")

    def _array(self, depth: int) -> list[Any]:
        self._enter(depth)
        items: list[Any] = []
        while True:
            if self._next_sign(items, "]") in ("", "]"):
                return items
            if self._peek() == "}":
                self._mended(CLOSED)
                return items
            items.append(self._value(depth, "item"))

    def _enter(self, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise NotJson
        self.position += 1

    def _next_sign(self, read_so_far: dict[str, Any] | list[Any], closing: str) -> str:
        """Step over commas and over `closing`; returns `closing`, '' at the end of the text, or the next sign."""
        commas = 0
        while (sign := self._peek()) == ",":
            self.position += 1
            commas += 1
        if sign == closing:
            if commas:
                self._mended("removed a comma too many")
            self.position += 1
        elif sign == "":
            self._mended(CLOSED)
        elif read_so_far and not commas:
            # Only what can begin a member may follow without a comma; else this is chatter, not JSON.
            if sign not in _CLOSING_QUOTES and not _BARE_KEY.match(self.text, self.position) and closing == "}":
                raise NotJson
            if sign != "}":
                self._mended("added a missing comma")
        elif commas > bool(read_so_far):
            self._mended("removed a comma too many")
        return sign

    def _key(self) -> str:
        if self._peek() in _CLOSING_QUOTES:
            return self._string("key")
        match = _BARE_KEY.match(self.text, self.position)
        if match is None:
            raise NotJson
        self.position = match.end()
        self._mended("put a bare key in quotes")
        return match[0]

    def _value(self, depth: int, place: Place) -> Any:
        sign = self._peek()
        if sign == "{":
            return self._object(depth + 1)
        if sign == "[":
            return self._array(depth + 1)
        if sign in _CLOSING_QUOTES:
            return self._string(place)
        if match := _NUMBER.match(self.text, self.position):
            self.position = match.end()
            if not _STRICT_NUMBER.fullmatch(match[0]):
                self._mended("read a number that is not written as JSON")
            return _number(match[0])
        match = _BARE_WORD.match(self.text, self.position)
        if match is None:
            if sign in (",", "}"):
                self._mended("put null for a missing value")
                return None
            raise NotJson
        self._spend(len(match[0]))
        self.position = match.end()
        word = match[0].strip()
        if word.casefold() in _WORDS:
            if word not in ("null", "true", "false"):
                self._mended(f"read {word} as JSON")
            return _WORDS[word.casefold()]
        self._mended("put a bare word in quotes")
        return word

    def _string(self, place: Place) -> str:
        opening = self.text[self.position]
        if opening != '"':
            self._mended("replaced single quotes" if opening in "'`" else "replaced typographic quotes")
        start = scan = self.position + 1
        inner = False
        while True:
            scan = self._next_quote(scan, opening)
            if scan < 0:
                self._mended(CLOSED)
                scan = len(self.text)
                self.position = scan
                break
            if self._ends_string(scan, place):
                self.position = scan + 1
                break
            inner = True
            scan += 1
        if inner:
            self._mended("escaped a quote inside a text")
        raw = self.text[start:scan]
        if any(character < " " for character in raw):
            self._mended("accepted a line break or tab inside a text")
        return _ESCAPE.sub(self._unescape, raw) if "\\" in raw else raw

    def _next_quote(self, start: int, opening: str) -> int:
        match = _CLOSERS[opening].match(self.text, start)
        end = match.end() if match else start
        self._spend(end - start + 1)
        return end if self.text[end : end + 1] in tuple(_CLOSING_QUOTES[opening]) else -1

    def _ends_string(self, quote: int, place: Place) -> bool:
        """Whether what follows this quote can follow a string; if not, it is a quote that should have been escaped."""
        after = self._behind_blank(quote + 1)
        sign = self.text[after : after + 1]
        if place == "key" or sign == "":
            return sign in ("", ":")
        if sign == ",":
            # In "red, "blue", green" the comma belongs to the text.
            follower = self._behind_blank(after + 1)
            if place == "member":
                return _NEXT_MEMBER.match(self.text, follower) is not None
            return self.text[follower : follower + 1] != ":"
        if sign in _CLOSING_QUOTES:
            # A string that follows without a comma; but in `"he said "hi""` the first of two quotes is an inner one.
            return after > quote + 1 and (place == "item" or _NEXT_MEMBER.match(self.text, after) is not None)
        return sign in "}]"

    def _behind_blank(self, start: int) -> int:
        match = _BLANK.match(self.text, start)
        end = match.end() if match else start
        self._spend(end - start + 1)
        return end

    def _unescape(self, match: re.Match[str]) -> str:
        code = match[1]
        if len(code) > 1:
            return chr(int(code[1:], 16))
        if code in '"\\/':
            return code
        if code in _NAMED:
            return _NAMED[code]
        if code in "'`":
            return code
        self._mended("accepted a backslash that escapes nothing")
        return match[0]

    def _peek(self) -> str:
        """The next sign that is neither blank nor comment, '' at the end."""
        end = self._behind_blank(self.position)
        if end > self.position:
            if "/" in self.text[self.position : end]:
                self._mended("removed a comment")
            self.position = end
        return self.text[self.position : self.position + 1]

    def _spend(self, characters: int) -> None:
        # Text with thousands of braces would be read again from each of them.
        self.budget -= characters
        if self.budget < 0:
            raise NotJson

    def _mended(self, what: str) -> None:
        self.repairs.setdefault(what)


def _number(digits: str) -> Any:
    try:
        return int(digits)
    except ValueError:
        # A fraction, or more digits than Python turns into a whole number.
        real = float(digits)
        return real if math.isfinite(real) else None
