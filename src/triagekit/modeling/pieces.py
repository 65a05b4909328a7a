"""Token ids of a piece of text by itself: joined pieces decode to the joined text, and text never becomes a special token."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from triagekit.errors import TriageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CACHE_LIMIT = 65_536
_PROBES = ('{"summary":"', "Hardware", '","category":"', "no vpn", " Network / Access", "é", '"}')


class PieceEncoder:
    """Encodes pieces with one tokenizer. Raises TriageError if pieces do not join to the same text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, tuple[int, ...]] = {}
        added = tokenizer.added_tokens_decoder.values()
        contents = {str(token.content) for token in added if token.special or _looks_like_control(str(token.content))}
        contents |= {str(token) for token in tokenizer.all_special_tokens}
        self._special = (
            re.compile("|".join(map(re.escape, sorted(contents, key=len, reverse=True)))) if contents else None
        )
        self._first_characters = frozenset(content[0] for content in contents)
        # SentencePiece-like tokenizers put a space before whatever they are given. Behind a line break they do not, so
        # pieces are then encoded behind one, and its tokens taken off again.
        self._anchor: tuple[str, tuple[int, ...]] = ("", ())
        if not self._joins():
            self._anchor = ("\n", self._plain("\n"))
            if not self._joins():
                raise TriageError(
                    f"The base's tokenizer ({type(tokenizer).__name__}) cannot write a record in pieces: "
                    f"{self.decode([i for probe in _PROBES for i in self.encode(probe)])!r} instead of "
                    f"{''.join(_PROBES)!r}. Choose a base with a byte-level or SentencePiece tokenizer."
                )
        self._cache.clear()

    def encode(self, text: str) -> tuple[int, ...]:
        """As encode_uncached, remembering up to 65,536 texts."""
        ids = self._cache.get(text)
        if ids is None:
            ids = self.encode_uncached(text)
            if len(self._cache) < _CACHE_LIMIT:
                self._cache[text] = ids
        return ids

    def encode_uncached(self, text: str) -> tuple[int, ...]:
        """Token ids of untrusted text: no special token can come out of it."""
        if self._special is None or self._first_characters.isdisjoint(text):
            return self._anchored(text)
        ids: list[int] = []
        start = 0
        for match in self._special.finditer(text):
            # Cut behind the first character: neither half is the special token's text any more. This holds for every
            # kind of tokenizer, whatever it makes of `split_special_tokens`.
            ids.extend(self._anchored(text[start : match.start() + 1]))
            start = match.start() + 1
        return (*ids, *self._anchored(text[start:]))

    def encode_trusted(self, text: str) -> tuple[int, ...]:
        """Token ids of the template's own text, special tokens recognised, none added."""
        return self._plain(text)

    def decode(self, ids: list[int]) -> str:
        """Exact text of `ids`, special tokens included."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _anchored(self, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        anchor, anchor_ids = self._anchor
        ids = self._plain(anchor + text)
        if ids[: len(anchor_ids)] != anchor_ids:
            # The text's own start melted into the anchor (a line break before a line break): encode without it.
            return self._plain(text)
        return ids[len(anchor_ids) :]

    def _plain(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _joins(self) -> bool:
        self._cache.clear()
        return self.decode([token for probe in _PROBES for token in self.encode(probe)]) == "".join(_PROBES)


def _looks_like_control(content: str) -> bool:
    return len(content) > 2 and (content[0], content[-1]) in {("<", ">"), ("[", "]")}
