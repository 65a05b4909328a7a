"""Groups of near-duplicate texts: MinHash with locality-sensitive hashing finds candidates, true Jaccard confirms them.

Broder (1997), "On the resemblance and containment of documents"; banding as in Leskovec, Rajaraman, Ullman, "Mining of
Massive Datasets", chapter 3. The MinHash and the LSH index are those of datasketch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from triagekit.data.shingles import SHINGLE_WORDS, words_of
from triagekit.errors import TriageError
from triagekit.progress import Progress, SilentProgress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

PERMUTATIONS = 128
MISSED = 1e-4
"""Share of pairs exactly at the threshold that the index may miss; higher similarities are missed far more rarely."""
_MULTIPLIER = 0x9E3779B97F4A7C15


class UnionFind:
    """Disjoint sets of 0 … size-1. The root of a set is its smallest member, so results do not depend on order."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, item: int) -> int:
        """Smallest member of the set of `item`."""
        root = item
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def join(self, first: int, second: int) -> None:
        """Make one set of the sets of two items."""
        a, b = sorted((self.find(first), self.find(second)))
        self._parent[b] = a

    def join_equal(self, keys: Iterable[Any]) -> None:
        """Join all items with equal keys; items whose key is None are left alone."""
        seen: dict[Any, int] = {}
        for index, key in enumerate(keys):
            if key is not None:
                self.join(seen.setdefault(key, index), index)

    def roots(self) -> list[int]:
        """Root of each item."""
        return [self.find(index) for index in range(len(self._parent))]


def bands_for(threshold: float, permutations: int = PERMUTATIONS) -> tuple[int, int]:
    """(bands, rows of a band): the most selective banding that misses at most MISSED of pairs at the threshold.

    A pair of similarity s shares a band with probability 1 - (1 - s^rows)^bands.
    """
    # Two bands at least: datasketch refuses one.
    for rows in range(permutations // 2, 0, -1):
        bands = permutations // rows
        if (1.0 - threshold**rows) ** bands <= MISSED:
            return bands, rows
    return permutations, 1


class Shingler:
    """Word 3-shingles of a text as sorted unique 64-bit hashes; words are hashed once (BLAKE2b, stable everywhere)."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def hashes(self, normal: str) -> Hashes:
        """Hashes of the shingles of a normalised text, shape (shingles,)."""
        import numpy as np

        words = words_of(normal)
        codes = np.array([self._code(word) for word in words], dtype=np.uint64)
        width = min(SHINGLE_WORDS, len(codes))
        mixed = np.zeros(len(codes) - width + 1, dtype=np.uint64)
        for offset in range(width):
            mixed = (mixed ^ codes[offset : len(codes) - width + 1 + offset]) * np.uint64(_MULTIPLIER)
            mixed ^= mixed >> np.uint64(29)
        return np.unique(mixed)

    def _code(self, word: str) -> int:
        code = self._known.get(word)
        if code is None:
            code = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")
            self._known[word] = code
        return code


def jaccard(first: Hashes, second: Hashes) -> float:
    """Shared share of two sorted unique hash arrays."""
    import numpy as np

    common = int(np.intersect1d(first, second, assume_unique=True).size)
    return common / (first.size + second.size - common)


def join_near_duplicates(
    normal_texts: Sequence[str], threshold: float, sets: UnionFind, progress: Progress | None = None
) -> int:
    """Join in `sets` all texts that are equal or whose shingle sets have a Jaccard similarity of at least `threshold`.

    Returns the number of different texts. Equal texts are looked at once. Raises TriageError without datasketch.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        raise TriageError("Finding near-duplicates needs datasketch: pip install triagekit[data]") from None
    import numpy as np

    sets.join_equal(normal_texts)
    first_of: dict[str, int] = {}
    for index, text in enumerate(normal_texts):
        first_of.setdefault(text, index)
    shingler = Shingler()
    index_of_bands = MinHashLSH(num_perm=PERMUTATIONS, params=bands_for(threshold))
    known: dict[int, Hashes] = {}

    def short_hashes() -> Iterator[list[int]]:
        for text, index in first_of.items():
            known[index] = shingler.hashes(text)
            yield (known[index] & np.uint64(0xFFFFFFFF)).tolist()

    bar = progress or SilentProgress()
    bar.start("near-duplicates", len(first_of))
    # `generator` shares the permutations; making them anew for each text takes longer than all the rest.
    signatures = MinHash.generator(short_hashes(), num_perm=PERMUTATIONS, hashfunc=_as_is)
    for index, signature in zip(first_of.values(), signatures, strict=True):
        bar.advance()
        hashes = known[index]
        for candidate in sorted(index_of_bands.query(signature)):
            if sets.find(candidate) == sets.find(index):
                continue
            other = known[candidate]
            small, large = sorted((hashes.size, other.size))
            if small >= threshold * large and jaccard(hashes, other) >= threshold:
                sets.join(candidate, index)
        index_of_bands.insert(index, signature, check_duplication=False)
    bar.finish()
    return len(first_of)


def _as_is(value: int) -> int:
    return value
