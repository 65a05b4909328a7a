"""Site profiles: the shipped ones are whole, a mistake is told with its place, durations are read as people write them."""

from __future__ import annotations

import pytest

from triagekit.cluster.durations import in_words, parse_duration, slurm_time
from triagekit.cluster.job_scripts import place_options, preamble
from triagekit.cluster.site_rungs import site_ladder
from triagekit.cluster.sites import RungPlace, SiteSettings, list_sites, load_site, split_overrides
from triagekit.errors import ProblemsError, TriageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90m", 5400), ("4h", 14400), ("1d12h", 129600), ("1d 12h", 129600), ("1.5h", 5400), ("30s", 30), ("2w", 1209600),
        ("30", 1800), ("30:00", 1800), ("4:00:00", 14400), ("1-12", 129600), ("1-12:30", 131400), ("1-12:30:05", 131405),
    ],
)  # fmt: skip
def test_spans_of_time(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "4 hours", "h", "-5", "1-", "1:2:3:4", "4h x"])
def test_what_is_no_span_of_time(text):
    with pytest.raises(ValueError, match="span of time"):
        parse_duration(text)


def test_spans_for_slurm_read_back_the_same():
    for seconds in (60, 5400, 86399, 86400, 131405, 1209600):
        assert parse_duration(slurm_time(seconds)) == seconds
    assert slurm_time(131405) == "1-12:30:05"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "now"), (-5, "now"), (40, "40 s"), (59.7, "1 min"), (3599, "1 h"), (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)
def test_spans_in_words(seconds, words):
    assert in_words(seconds) == words


def test_shipped_sites_are_whole():
    names = [name for name, description in list_sites() if description]
    assert {"csf", "generic", "test"} <= set(names)
    for name in names:
        site = load_site(name)
        assert site.name == name
        site_ladder(site)
        for rung in site.rungs:
            assert site.place(rung).partition and site.place(rung).time_limit, f"{name} {rung}"
        for kind in ("prepare", "evaluate", "score", "compare"):
            assert site.job_place(kind).partition, f"{name} {kind}"
        assert "$HOME" not in "\n".join(line for line in preamble(site) if not line.startswith("#"))


def test_the_test_site_needs_no_gpu_on_any_rung():
    site = load_site("test")
    assert {rung.device for rung in site_ladder(site).rungs if site.serves(rung.name) and rung.count} == {"cpu"}


def test_a_place_takes_what_it_leaves_open_from_the_defaults():
    site = load_site(
        "generic", ["defaults.qos=long", "rungs.cpu.options={nice: 5}", "defaults.options={exclusive: null}"]
    )
    place = site.place("cpu")
    assert (place.partition, place.time_limit, place.qos) == ("cpu", "24h", "long")
    assert place.options == {"nice": 5, "exclusive": None}
    assert site.place("1xA100").time_limit == "12h"
    options = place_options(place, site, nodes=2)
    assert options["nice"] == "5" and options["exclusive"] is None and options["nodes"] == "2"
    assert options["time"] == "1-00:00:00" and "account" not in options


def test_kinds_of_jobs_without_a_place_take_the_last_rung():
    site = SiteSettings(name="x", rungs={"1xA100": {"partition": "gpu"}, "cpu": {"partition": "small"}})
    assert site.job_place("compare").partition == "small"


def test_unknown_names_get_the_nearest():
    with pytest.raises(TriageError, match=r"Did you mean 'csf'\?"):
        load_site("cfs")
    with pytest.raises(TriageError, match=r"Did you mean '1xA100'\?"):
        load_site("generic").place("1xa10")
    with pytest.raises(TriageError, match="No file at"):
        load_site("./mine.yaml")


def test_all_mistakes_of_a_site_at_once_with_their_lines(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nrungs:\n  cpu:\n    partion: x\n    time_limit: 12:00:00\n    options: {--exclusive: null}\n"
        "policy: fastest\npatience: soon\nproxies: {'a b': x}\n"
    )
    with pytest.raises(ProblemsError) as caught:
        load_site(str(path))
    text = str(caught.value)
    for expected in ("mine.yaml:4", "'partion'", "quotes", "without dashes", "policy", "span of time", "variable"):
        assert expected in text, expected
    assert len(caught.value.problems) == 6


def test_a_rung_that_the_ladder_does_not_have_is_told(tmp_path):
    site = load_site("generic", ["rungs={2xA10: {partition: gpu}, cpu: {partition: cpu}}"])
    with pytest.raises(ProblemsError, match=r"no rung '2xA10'.*Did you mean '2xA100'\?"):
        site_ladder(site)


def test_words_for_the_site_are_told_from_those_for_the_run():
    assert split_overrides(["seed=1", "site.account=nlp", "data=x"]) == (["seed=1", "data=x"], ["account=nlp"])


def test_a_site_without_rungs_serves_nothing():
    with pytest.raises(ValueError, match="rungs is empty"):
        SiteSettings(name="x", rungs={})
    assert RungPlace(partition="a").over(RungPlace(partition="b", qos="q")) == RungPlace(partition="a", qos="q")
