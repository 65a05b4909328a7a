"""The check after the split: does any text of one split stand, equal or nearly, in another?

It is independent of the grouping: an exact set-similarity join with prefix and length filters (Bayardo, Ma, Srikant,
"Scaling Up All Pairs Similarity Search", 2007) over plain strings, with no hashing that could miss a pair.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from triagekit.data.rows import SPLITS
from triagekit.data.shingles import normal_text, shingles_of
from triagekit.progress import Progress, SilentProgress

SHOWN = 20


@dataclass(frozen=True)
class Leak:
    """Two rows in different splits that are equal (similarity 1 and exact) or near-duplicates."""

    first: tuple[str, int]
    second: tuple[str, int]
    similarity: float
    exact: bool


@dataclass(frozen=True)
class LeakReport:
    """All leaks. `exact` and `near` count rows of the later split that have a partner in an earlier one."""

    threshold: float
    leaks: list[Leak] = field(default_factory=list)

    @property
    def exact(self) -> int:
        return len({leak.second for leak in self.leaks if leak.exact})

    @property
    def near(self) -> int:
        return len({leak.second for leak in self.leaks if not leak.exact})

    def to_json(self, ids: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Counts, and the first pairs with their ids."""
        pairs = [
            {
                "first": {"split": leak.first[0], "id": ids[leak.first[0]][leak.first[1]]},
                "second": {"split": leak.second[0], "id": ids[leak.second[0]][leak.second[1]]},
                "similarity": round(leak.similarity, 4),
            }
            for leak in self.leaks[:SHOWN]
        ]
        return {"exact": self.exact, "near": self.near, "threshold": self.threshold, "pairs": pairs}


class _Index:
    """Texts of one split by the shingles of their prefixes.

    Shingles are ordered by how many texts of this split have them, rarest first: two sets with Jaccard similarity of
    at least t share one of the first n - ceil(t * n) + 1 shingles of each.
    """

    def __init__(self, texts: Sequence[str], threshold: float) -> None:
        self.threshold = threshold
        self.exact = {text: index for index, text in reversed(list(enumerate(texts)))}
        self.sets = [shingles_of(text) for text in texts]
        self._counts: Counter[str] = Counter()
        for shingles in self.sets:
            self._counts.update(shingles)
        self._by_shingle: dict[str, list[int]] = defaultdict(list)
        for index, shingles in enumerate(self.sets):
            for shingle in self.prefix(shingles):
                self._by_shingle[shingle].append(index)

    def prefix(self, shingles: set[str]) -> list[str]:
        ordered = sorted(shingles, key=lambda shingle: (self._counts.get(shingle, 0), shingle))
        return ordered[: len(ordered) - math.ceil(self.threshold * len(ordered) - 1e-9) + 1]

    def near(self, shingles: set[str]) -> Iterator[tuple[int, float]]:
        """(text, similarity) of every text of the index that is near-duplicate to `shingles`."""
        candidates = {index for shingle in self.prefix(shingles) for index in self._by_shingle.get(shingle, ())}
        for index in sorted(candidates):
            other = self.sets[index]
            if min(len(other), len(shingles)) < self.threshold * max(len(other), len(shingles)):
                continue
            common = len(other & shingles)
            similarity = common / (len(other) + len(shingles) - common)
            if similarity >= self.threshold:
                yield index, similarity


def leak_check(splits: Mapping[str, Sequence[str]], threshold: float, progress: Progress | None = None) -> LeakReport:
    """Every pair of texts in different splits that is equal after normalisation or at least `threshold` similar.

    `splits` gives the raw texts of each split; positions in the report are positions in these lists.
    """
    normal = {split: [normal_text(text) for text in splits.get(split, ())] for split in SPLITS}
    leaks: list[Leak] = []
    bar = progress or SilentProgress()
    bar.start("leak check", 2 * len(normal["train"]) + len(normal["val"]))
    for later_number, later in enumerate(SPLITS[1:], start=1):
        if not normal[later]:
            continue
        index = _Index(normal[later], threshold)
        positions: dict[str, list[int]] = defaultdict(list)
        for position, text in enumerate(normal[later]):
            positions[text].append(position)
        for earlier in SPLITS[:later_number]:
            for number, text in enumerate(normal[earlier]):
                bar.advance()
                here = (earlier, number)
                leaks += [Leak(here, (later, position), 1.0, True) for position in positions.get(text, ())]
                for position, similarity in index.near(shingles_of(text)):
                    if normal[later][position] != text:
                        leaks.append(Leak(here, (later, position), similarity, False))
    bar.finish()
    return LeakReport(threshold, leaks)
