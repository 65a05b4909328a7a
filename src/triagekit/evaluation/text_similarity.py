"""How alike two short texts are, by words: ROUGE-L and the Jaccard index of their word sets. Standard library only.

Sources: C.-Y. Lin, ROUGE: A Package for Automatic Evaluation of Summaries (2004), §3 (ROUGE-L, here with beta = 1, i.e.
the harmonic mean); P. Jaccard, The distribution of the flora in the alpine zone (1912);
M. Crochemore et al., A fast and practical bit-vector algorithm for the longest common subsequence problem (2001).
"""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Case-folded runs of letters, digits and underscores, of any script."""
    return _WORD.findall(text.casefold())


def longest_common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, by bit-vectors: one big-integer step per word of `second`."""
    if not first or not second:
        return 0
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    everything = (1 << len(first)) - 1
    row = everything
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & everything
    return len(first) - row.bit_count()


def rouge_l(gold: str, predicted: str) -> float:
    """ROUGE-L F1 in 0…1: the longest common word sequence against both lengths. Two texts without words are alike (1)."""
    first, second = words(gold), words(predicted)
    if not first and not second:
        return 1.0
    return 2 * longest_common_subsequence(first, second) / (len(first) + len(second))


def word_jaccard(gold: str, predicted: str) -> float:
    """Shared distinct words over all distinct words, in 0…1. Two texts without words are alike (1)."""
    first, second = set(words(gold)), set(words(predicted))
    if not first and not second:
        return 1.0
    return len(first & second) / len(first | second)
