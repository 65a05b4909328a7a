"""What "the same text" and "nearly the same text" mean here: normalised text, and sets of word 3-shingles."""

from __future__ import annotations

import re
import unicodedata

SHINGLE_WORDS = 3

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
# Chinese, Japanese and Korean are written without spaces: there each character counts as a word.
_WORD = re.compile(f"[{_CJK}]|[^\\W_{_CJK}]+")


def normal_text(text: str) -> str:
    """Text whose equality makes two tickets exact duplicates: NFKC, case folded, spaces collapsed."""
    folded = text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split())


def words_of(normal: str) -> list[str]:
    """Words of a normalised text; the whole text where it has no letter or digit."""
    return _WORD.findall(normal) or [normal]


def shingles_of(normal: str) -> set[str]:
    """Set of word 3-shingles; a shorter text is one shingle."""
    words = words_of(normal)
    if len(words) <= SHINGLE_WORDS:
        return {" ".join(words)}
    return {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}
