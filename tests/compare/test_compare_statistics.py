"""The statistics against known values, and against what was planted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from triagekit.compare.statistics import (
    SeedSamples,
    discordant_counts,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    sampled_difference,
    seed_difference,
    seed_mean,
)
from triagekit.evaluation.classification import label_order, macro_f1_samples
from triagekit.evaluation.intervals import resample_weights


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 5), (1, 9), (12, 30), (0, 6), (40, 3)])
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = 1.0
    if first + second:
        tail = stats.binom.cdf(min(first, second), first + second, 0.5)
        expected = min(1.0, 2 * tail)
    assert mcnemar_exact(first, second) == pytest.approx(expected, rel=1e-9)


def test_six_tickets_of_258_are_no_gain():
    # Published: 167 of 258 right before, 173 after. Even if not one ticket got worse, that is 6 against 0; with
    # a usual amount of exchange between the two it is nothing.
    assert mcnemar_exact(20, 26) > 0.4


def test_discordant_counts():
    assert discordant_counts(np.array([1, 1, 0, 0, 1]), np.array([1, 0, 1, 1, 0])) == (2, 2)


def test_holm_gives_the_textbook_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_paired_bootstrap_agrees_with_scipy():
    generator = np.random.default_rng(3)
    first, second = generator.random(400) < 0.8, generator.random(400) < 0.7
    value, low, high, p = paired_bootstrap(first, second, resamples=4000, seed=1)
    difference = first.astype(float) - second.astype(float)
    reference = stats.bootstrap((difference,), np.mean, n_resamples=4000, method="percentile", rng=generator)
    assert value == pytest.approx(difference.mean())
    assert low == pytest.approx(reference.confidence_interval.low, abs=0.006)
    assert high == pytest.approx(reference.confidence_interval.high, abs=0.006)
    assert p < 0.05


def test_one_seed_each_uses_mcnemar_and_says_that_it_covers_tickets_only():
    generator = np.random.default_rng(5)
    first, second = (generator.random((1, 300)) < share for share in (0.85, 0.75))
    result = seed_difference(first, second)
    assert result.covers == "tickets"
    assert result.p == mcnemar_exact(*discordant_counts(first[0], second[0]))


def simulated(generator, seeds, tickets, seed_noise, shift=0.0):
    """Scores of a method whose seeds vary by `seed_noise`; the tickets' difficulty is shared by all that use `hard`."""

    def draw(hard):
        return np.array(
            [
                (hard + shift + generator.normal(0, seed_noise) + generator.normal(0, 0.7, tickets) > -0.8)
                for _ in range(seeds)
            ],
            dtype=float,
        )

    return draw


@pytest.mark.parametrize(("seeds", "seed_noise"), [(1, 0.0), (2, 0.0), (2, 0.1), (2, 0.3), (3, 0.1)])
def test_false_alarms_stay_at_the_promised_rate(seeds, seed_noise):
    generator = np.random.default_rng(11)
    rounds, alarms = 150, 0
    for number in range(rounds):
        hard = generator.normal(0, 1, 200)
        draw = simulated(generator, seeds, 200, seed_noise)
        alarms += seed_difference(draw(hard), draw(hard), resamples=150, seed=number).p < 0.05
    # 5 % promised; 16 of 150 would come up once in two hundred such tests at exactly 5 %.
    assert alarms <= 15


def test_ignoring_seeds_would_raise_false_alarms():
    """What the widening is for: with seeds that vary, resampling tickets alone finds differences that are not there."""
    generator = np.random.default_rng(11)
    naive = 0
    for number in range(100):
        hard = generator.normal(0, 1, 200)
        draw = simulated(generator, 2, 200, 0.3)
        naive += paired_bootstrap(draw(hard).mean(axis=0), draw(hard).mean(axis=0), 150, number)[3] < 0.05
    assert naive > 20


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_a_real_difference_is_found(seeds):
    generator = np.random.default_rng(7)
    found = 0
    for number in range(40):
        hard = generator.normal(0, 1, 500)
        better, worse = simulated(generator, seeds, 500, 0.03, 0.5), simulated(generator, seeds, 500, 0.03)
        result = seed_difference(better(hard), worse(hard), resamples=150, seed=number)
        found += result.p < 0.05 and result.value > 0
    assert found >= 32


def test_interval_and_p_agree():
    generator = np.random.default_rng(9)
    for number in range(30):
        hard = generator.normal(0, 1, 200)
        draw = simulated(generator, 2, 200, 0.2, generator.normal(0, 0.4))
        result = seed_difference(draw(hard), simulated(generator, 2, 200, 0.2)(hard), resamples=200, seed=number)
        assert (result.low > 0 or result.high < 0) == (result.p < 0.05)


def test_a_baseline_has_no_seed_noise():
    generator = np.random.default_rng(1)
    trained, fixed = generator.random((3, 200)) < 0.8, generator.random((1, 200)) < 0.6
    assert seed_difference(fixed, fixed, True, True).p == 1.0
    assert seed_difference(trained, fixed, False, True).degrees < seed_difference(trained, trained[:2]).degrees + 200


def test_a_single_seed_beside_two_is_taken_to_vary_as_much():
    generator = np.random.default_rng(2)
    hard = generator.normal(0, 1, 400)
    two, one = simulated(generator, 2, 400, 0.3)(hard), simulated(generator, 1, 400, 0.3)(hard)
    mixed = seed_difference(one, two, resamples=500)
    assert mixed.covers == "tickets and seeds"
    assert mixed.seed_error**2 == pytest.approx(two.mean(axis=1).var(ddof=1) * 1.5)


def test_mean_over_seeds():
    scores = np.array([[1, 1, 0, 0], [1, 1, 1, 0]], dtype=float)
    result = seed_mean(scores)
    assert result.value == pytest.approx(0.625)
    assert result.spread == pytest.approx(np.std([0.5, 0.75], ddof=1))
    assert seed_mean(np.ones((1, 50))).low < 1.0  # a hundred per cent of fifty tickets is no certainty


def sampled_mean(scores, resamples, deterministic=False):
    """The mean as a figure whose samples are given, to hold against `seed_difference`, which takes them itself."""
    weights = np.vstack(list(resample_weights(scores.shape[1], resamples)))
    return SeedSamples(scores.mean(axis=1), weights @ scores.T / scores.shape[1], deterministic)


@pytest.mark.parametrize(("seeds", "fixed"), [((3, 3), False), ((2, 1), False), ((3, 1), True), ((1, 1), False)])
def test_a_sampled_figure_is_treated_as_a_mean_is(seeds, fixed):
    generator = np.random.default_rng(13)
    hard = generator.normal(0, 1, 300)
    first, second = (simulated(generator, count, 300, 0.2)(hard) for count in seeds)
    given = seed_difference(first, second, False, fixed, resamples=2000)
    result = sampled_difference(sampled_mean(first, 2000), sampled_mean(second, 2000, fixed), 300)
    assert (result.value, result.seed_error, result.covers) == pytest.approx(
        (given.value, given.seed_error, given.covers)
    )
    assert result.ticket_error == pytest.approx(given.ticket_error, rel=0.1), "from resamples, not by formula"
    assert [result.low, result.high] == pytest.approx([given.low, given.high], abs=0.003)


def macro_f1_of(gold, predictions, resamples=150):
    figures = [macro_f1_samples(label_order([], gold, own), gold, own, resamples) for own in predictions]
    return SeedSamples(np.array([value for value, _ in figures]), np.stack([own for _, own in figures], axis=1))


def rare_labels(generator, tickets=200):
    """A frequent label and rare ones, with the chance of each ticket to be right."""
    gold = generator.choice(list("abcdefgh"), tickets, p=[0.5, 0.2, 0.1, 0.08, 0.05, 0.04, 0.02, 0.01])
    return gold, generator.beta(2, 1, tickets)


def test_false_alarms_of_macro_f1_stay_at_the_promised_rate():
    generator = np.random.default_rng(17)
    alarms = 0
    for number in range(150):
        gold, chance = rare_labels(generator)
        methods = [
            macro_f1_of(gold, [np.where(generator.random(200) < chance, gold, "a") for _ in range(3)]) for _ in range(2)
        ]
        alarms += sampled_difference(*methods, tickets=200, seed=number).p < 0.05
    assert alarms <= 15


def test_a_real_difference_of_macro_f1_is_found_where_accuracy_hides_it():
    """Two rare labels out of eight are never found: under one ticket in thirty, a quarter of macro-F1."""
    generator = np.random.default_rng(19)
    gold, chance = rare_labels(generator, 1000)
    right = [np.where(generator.random(1000) < chance + 0.2, gold, "a") for _ in range(3)]
    blind = [np.where(np.isin(gold, ["g", "h"]), "a", own) for own in right]
    result = sampled_difference(macro_f1_of(gold, blind), macro_f1_of(gold, right), 1000)
    assert result.high < 0 and result.p < 0.05
    assert (
        abs(np.mean([(own != gold).mean() for own in blind]) - np.mean([(own != gold).mean() for own in right])) < 0.04
    )


def test_the_interval_of_macro_f1_lies_around_it_though_resamples_lose_rare_labels():
    gold = np.array(["a"] * 60 + [f"rare{number}" for number in range(20)])
    predicted = np.array(["a"] * 80)
    own = macro_f1_of(gold, [predicted, np.where(np.arange(80) < 3, "rare0", predicted)])
    assert np.quantile(own.samples, 0.025) > own.values.mean(), "every resample is without a third of the rare labels"
    zero = SeedSamples(np.zeros(1), np.zeros((150, 1)), deterministic=True)
    result = sampled_difference(own, zero, 80)
    assert result.low < own.values.mean() < result.high
    assert (result.low + result.high) / 2 == pytest.approx(own.values.mean())


def test_the_interval_allows_for_tickets_that_are_hard_for_both():
    generator = np.random.default_rng(23)
    hard = generator.normal(0, 1, 2000)
    first, second = (simulated(generator, 3, 2000, 0.0)(hard) for _ in range(2))
    result = seed_difference(first, second)
    error = (result.high - result.low) / 2 / stats.t.ppf(0.975, result.degrees)
    alone = sum(own.mean(axis=0).var() / 2000 for own in (first, second)) ** 0.5
    assert error == pytest.approx((result.ticket_error**2 + result.seed_error**2) ** 0.5, rel=0.3)
    assert error < alone, "tickets drawn apart for each method make a wider interval, even without seeds"
