"""Splits: shares, strata, rare labels, groups, time, determinism; nothing raises on small or odd data."""

import datetime
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triagekit.data.split_settings import SplitSettings
from triagekit.data.splits import official_name, parse_time, random_split, time_split


def split(labels, val=0.1, test=0.1, seed=42, units=None):
    units = list(range(len(labels))) if units is None else units
    return random_split(units, [(label,) for label in labels], val, test, seed)


def test_shares_hold_over_all_rows_and_within_labels():
    labels = ["a"] * 600 + ["b"] * 300 + ["c"] * 100
    names = split(labels)
    counts = Counter(names)
    assert abs(counts["val"] - 100) <= 2
    assert abs(counts["test"] - 100) <= 2
    for label, total in (("a", 600), ("b", 300), ("c", 100)):
        within = Counter(name for name, own in zip(names, labels, strict=True) if own == label)
        assert abs(within["test"] - total / 10) <= 2
        assert abs(within["val"] - total / 10) <= 2


def test_rare_labels_never_raise_and_are_in_train_first():
    labels = ["common"] * 200 + [f"rare{n}" for n in range(30)] + ["pair", "pair"]
    names = split(labels)
    for label in set(labels):
        assert "train" in {name for name, own in zip(names, labels, strict=True) if own == label}


def test_only_singletons_still_give_three_splits():
    names = split([f"only{n}" for n in range(40)])
    assert Counter(names)["val"] >= 2
    assert Counter(names)["test"] >= 2


@pytest.mark.parametrize(("rows", "expected"), [(1, {"train"}), (2, {"train", "val"}), (3, {"train", "val", "test"})])
def test_few_rows(rows, expected):
    assert set(split(["a"] * rows)) == expected


def test_no_test_wanted():
    assert set(split(["a"] * 50, val=0.2, test=0.0)) == {"train", "val"}


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    labels = ["a", "b"] * 100
    assert split(labels, seed=1) == split(labels, seed=1)
    assert split(labels, seed=1) != split(labels, seed=2)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 15), st.sampled_from("abcde")), min_size=1, max_size=80),
    seed=st.integers(0, 5),
)
def test_units_never_straddle(rows, seed):
    units = [unit for unit, _ in rows]
    names = split([label for _, label in rows], seed=seed, units=units)
    assert len(names) == len(rows)
    for unit in set(units):
        assert len({name for name, own in zip(names, units, strict=True) if own == unit}) == 1
    if len(set(units)) >= 3:
        assert set(names) == {"train", "val", "test"}


def test_a_large_group_of_near_duplicates_goes_to_train():
    units = [0] * 60 + list(range(1, 441))
    names = split(["a"] * 500, units=units)
    assert names[0] == "train"


def days(*numbers):
    return [datetime.datetime(2020, 1, number, tzinfo=datetime.UTC) for number in numbers]


def test_time_order():
    times = days(*[9, 1, 8, 2, 7, 3, 6, 4, 5, 10])
    names = time_split(times, 0.2, 0.2)
    by_time = [name for _, name in sorted(zip(times, names, strict=True))]
    assert by_time == ["train"] * 6 + ["val"] * 2 + ["test"] * 2


def test_rows_of_one_moment_stay_together():
    names = time_split(days(1, 1, 2, 2, 3, 3, 3, 3, 4, 5), 0.2, 0.3)
    assert len({names[index] for index in (4, 5, 6, 7)}) == 1
    assert set(names) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2015-03-01T10:00:00", "2015-03-01T10:00:00+00:00"),
        ("2015-03-01T10:00:00+02:00", "2015-03-01T10:00:00+02:00"),
        (datetime.date(2015, 3, 1), "2015-03-01T00:00:00+00:00"),
        (0, "1970-01-01T00:00:00+00:00"),
    ],
)
def test_times(value, expected):
    assert parse_time(value).isoformat() == expected


def test_other_times_need_their_format():
    assert parse_time("3/31/2021 14:13", "%m/%d/%Y %H:%M").month == 3
    for value in ("3/31/2021 14:13", "", None, True):
        with pytest.raises(ValueError):
            parse_time(value)


def test_official_names():
    assert [official_name(v) for v in ("Train", "validation", "dev", "test/data.json", "x/train.jsonl.gz", "prod")] == [
        "train",
        "val",
        "val",
        "test",
        "train",
        None,
    ]


def test_presets_and_mistakes():
    assert SplitSettings().shares() == (0.1, 0.1)
    assert SplitSettings(preset="95:5").shares() == (0.0475, 0.05)
    assert SplitSettings(preset="95:5", val=0.2).shares() == (0.2, 0.05)
    with pytest.raises(ValueError, match="nothing is left for train"):
        SplitSettings(val=0.5, test=0.5)
    with pytest.raises(ValueError, match="needs its column"):
        SplitSettings(method="time")
    with pytest.raises(ValueError, match="say which 'method' is meant"):
        SplitSettings(time="a", group="b")
    assert SplitSettings(group="b").resolved_method() == "group"
