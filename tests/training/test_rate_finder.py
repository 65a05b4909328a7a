"""The learning-rate test: what is read from a curve, and a real one that leaves the run itself alone."""

from __future__ import annotations

import json
import math

import pytest

from triagekit.errors import TriageError
from triagekit.training.rate_finder import HIGHEST, LOWEST, RateFinding, find_learning_rate, read_curve, smooth
from triagekit.training.rate_plot import plot_rates
from triagekit.training.run_folder import RunFolder
from triagekit.training.train import train

RATES = [1e-6 * 10 ** (step / 10) for step in range(61)]


def curve(rates):
    """A loss that falls most steeply at 1e-4, is lowest at 1e-2 and then breaks out."""
    return [5 - 4 / (1 + math.exp(-4 * (math.log10(rate) + 4))) + (rate / 0.03) ** 4 for rate in rates]


def test_the_steepest_and_the_lowest_point_are_found():
    finding = read_curve(RATES, curve(RATES))
    assert finding.steepest == pytest.approx(1e-4, rel=0.3)
    assert finding.lowest == pytest.approx(8e-3, rel=0.5)
    assert finding.suggested == pytest.approx(math.sqrt(finding.steepest * finding.lowest))


def test_single_odd_steps_do_not_decide():
    losses = curve(RATES)
    losses[5] -= 1.0
    finding = read_curve(RATES, losses)
    assert finding.steepest == pytest.approx(1e-4, rel=0.5)


def test_a_loss_that_never_falls_suggests_nothing():
    finding = read_curve(RATES, [1 + rate for rate in RATES])
    assert finding.suggested is None and finding.steepest is None and finding.lowest is None


def test_smoothing_moves_nothing_sideways():
    assert smooth([0, 0, 9, 0, 0], 1) == [0, 3, 3, 3, 0]
    assert smooth([1, 2, 3], 0) == [1, 2, 3]


def test_too_few_steps_are_refused(settings_for):
    with pytest.raises(TriageError, match="at least 8 steps"):
        find_learning_rate(settings_for(), steps=7)


def test_a_real_test_comes_before_its_run_and_leaves_it_alone(settings_for, tmp_path):
    settings = settings_for(adapter={"dropout": 0.0, "lora_plus_ratio": 4.0}, epochs=1)
    finding, place = find_learning_rate(settings, steps=30)
    assert finding.rates[0] == LOWEST and finding.rates[-1] <= HIGHEST * 1.001
    ratios = {round(after / before, 6) for before, after in zip(finding.rates, finding.rates[1:], strict=False)}
    assert len(ratios) == 1, "one factor a step"
    assert min(finding.losses) < finding.losses[0] - 0.15, "even a tiny random model learns a little in between"
    assert json.loads((place / "losses.json").read_text())["losses"] == finding.losses
    assert not list(place.rglob("*.safetensors")), "no checkpoint"

    # Another rate than the settings', as one would after the test: the folder is still free for it.
    run = RunFolder(tmp_path / "runs" / "run")
    assert not run.config.exists()
    done = train(settings_for(adapter={"dropout": 0.0}, optimizer={"learning_rate": 2e-3}, epochs=1))
    assert done.folder == run.folder and done.is_finished
    assert (place / "losses.json").is_file()

    # And again beside the finished run, which stays as it is.
    before = run.summary.read_bytes()
    again, _ = find_learning_rate(settings, steps=30)
    assert again == finding, "the same seed, the same curve"
    assert run.summary.read_bytes() == before


def test_the_plot_shows_both_ends(tmp_path):
    finding = read_curve(RATES, curve(RATES))
    plot_rates(finding, tmp_path / "losses.svg", "a run")
    text = (tmp_path / "losses.svg").read_text()
    assert text.startswith("<?xml") and "</svg>" in text
    nothing = RateFinding(RATES, [1.0] * 61, [1.0] * 61, None, None, None)
    plot_rates(nothing, tmp_path / "flat.svg", "a run")
    assert (tmp_path / "flat.svg").is_file()
