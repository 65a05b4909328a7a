"""Near-duplicate groups against a brute-force count, and a leak check that really finds planted leaks."""

import itertools
import random

import pytest

from triagekit.data.duplicates import PERMUTATIONS, Shingler, UnionFind, bands_for, jaccard, join_near_duplicates
from triagekit.data.leak_check import leak_check
from triagekit.data.shingles import normal_text, shingles_of

WORDS = [f"word{n}" for n in range(400)]


def ticket(rng, length=40):
    return [rng.choice(WORDS) for _ in range(length)]


def with_edits(words, rng, edits):
    words = list(words)
    for _ in range(edits):
        words[rng.randrange(len(words))] = rng.choice(WORDS)
    return words


def corpus(seed=3):
    rng = random.Random(seed)
    texts = []
    for _ in range(60):
        first = ticket(rng)
        texts += [" ".join(with_edits(first, rng, edits)) for edits in (0, 0, 1, 2, 3)]
    rng.shuffle(texts)
    return texts


def true_pairs(texts, threshold):
    sets = [shingles_of(normal_text(text)) for text in texts]
    return [
        (a, b)
        for a, b in itertools.combinations(range(len(texts)), 2)
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= threshold
    ]


@pytest.mark.parametrize("threshold", [0.6, 0.85, 1.0])
def test_groups_are_those_of_all_pairs_compared(threshold):
    texts = corpus()
    found = UnionFind(len(texts))
    join_near_duplicates([normal_text(text) for text in texts], threshold, found)
    expected = UnionFind(len(texts))
    for a, b in true_pairs(texts, threshold):
        expected.join(a, b)
    assert found.roots() == expected.roots()
    assert len(set(found.roots())) < len(texts)


def test_the_bands_miss_next_to_nothing_at_the_threshold():
    for threshold in (0.5, 0.7, 0.85, 0.95, 1.0):
        bands, rows = bands_for(threshold)
        assert bands * rows <= PERMUTATIONS
        assert (1 - threshold**rows) ** bands <= 1e-4


def test_hashed_shingles_agree_with_plain_ones():
    a, b = "the printer on floor three is dead again", "the printer on floor three is broken again"
    plain_a, plain_b = shingles_of(a), shingles_of(b)
    shingler = Shingler()
    assert jaccard(shingler.hashes(a), shingler.hashes(b)) == len(plain_a & plain_b) / len(plain_a | plain_b)
    assert shingler.hashes("one").size == 1
    assert shingler.hashes("????").size == 1


def test_what_equal_means():
    assert normal_text("  VPN\tfails\n now ") == normal_text("vpn fails now")
    assert normal_text("ﬁle") == "file"
    assert len(shingles_of("我的电脑坏了")) == 4


def test_the_leak_check_finds_exactly_the_planted_leaks():
    texts = corpus()
    third = len(texts) // 3
    splits = {"train": texts[:third], "val": texts[third : 2 * third], "test": texts[2 * third :]}
    names = ["train"] * third + ["val"] * third + ["test"] * third
    report = leak_check(splits, 0.85)
    expected = sum(names[a] != names[b] for a, b in true_pairs(texts, 0.85))
    assert len(report.leaks) == expected > 20
    assert report.exact > 0
    assert report.near > 0


def test_no_leak_no_report():
    rng = random.Random(0)
    splits = {name: [" ".join(ticket(rng)) for _ in range(50)] for name in ("train", "val", "test")}
    report = leak_check(splits, 0.85)
    assert (report.exact, report.near, report.leaks) == (0, 0, [])


def test_the_leak_check_names_the_rows():
    report = leak_check({"train": ["a b c d"], "val": [], "test": ["x", "A  b c d"]}, 0.85)
    found = report.to_json({"train": ["T1"], "val": [], "test": ["E1", "E2"]})
    assert found["exact"] == 1
    assert found["pairs"] == [
        {"first": {"split": "train", "id": "T1"}, "second": {"split": "test", "id": "E2"}, "similarity": 1.0}
    ]
