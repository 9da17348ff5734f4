"""Intervals and paired tests, each against an independent formula."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from dexhil.evaluation.intervals import mcnemar, paired_difference, score, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (1, 20), (13, 20), (20, 20), (70, 100), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_agrees_with_scipy(successes: int, trials: int, confidence: float):
    expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose(wilson(successes, trials, confidence), (expected.low, expected.high), atol=1e-12)


def test_wilson_bounds_are_where_the_score_test_just_rejects():
    def z_of(rate: float) -> float:
        return (13 / 20 - rate) / np.sqrt(rate * (1 - rate) / 20)

    low = optimize.root_scalar(lambda p: z_of(p) - 1.959963984540054, bracket=(1e-6, 13 / 20)).root
    high = optimize.root_scalar(lambda p: z_of(p) + 1.959963984540054, bracket=(13 / 20, 1 - 1e-6)).root
    np.testing.assert_allclose(wilson(13, 20), (low, high), atol=1e-9)


def test_wilson_bounds_are_rates_to_the_last_bit():
    bounds = [bound for trials in range(1, 400) for wins in (0, trials) for bound in wilson(wins, trials)]
    assert 0.0 <= min(bounds) <= max(bounds) <= 1.0


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, trials: int):
    with pytest.raises(ValueError, match=rf"0 <= successes <= trials and trials > 0, got {successes} of {trials}"):
        wilson(successes, trials)


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_is_the_binomial_test_of_the_disagreeing_pairs(seed: int):
    a, b = np.random.default_rng(seed).random((2, 40)) < [[0.7], [0.4]]
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    assert mcnemar(a, b) == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    assert mcnemar(b, a) == mcnemar(a, b)


def test_mcnemar_of_equal_outcomes_is_one():
    assert mcnemar([True, False], [True, False]) == 1.0


def test_paired_difference_agrees_with_scipy_bootstrap_on_one_task():
    a, b = np.random.default_rng(3).random((2, 60)) < [[0.7], [0.5]]
    ours = paired_difference({"plush": a}, {"plush": b}, resamples=20_000)
    theirs = stats.bootstrap(
        (a.astype(float) - b,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.mean == pytest.approx(a.mean() - b.mean())
    np.testing.assert_allclose(ours.interval, (theirs.low, theirs.high), atol=0.02)


def test_paired_difference_has_the_normal_width_of_the_mean_over_tasks():
    rng = np.random.default_rng(0)
    first = {task: rng.random(400) < 0.7 for task in ("plush", "tissue")}
    second = {task: rng.random(400) < 0.5 for task in ("plush", "tissue")}
    result = paired_difference(first, second)
    variances = [np.var(first[task].astype(float) - second[task]) / 400 for task in first]
    assert result.interval.high - result.interval.low == pytest.approx(2 * 1.96 * np.sqrt(sum(variances)) / 2, rel=0.05)


def test_paired_difference_is_antisymmetric_and_reproducible():
    first, second = {"plush": [True, True, False, True]}, {"plush": [False, True, False, False]}
    forth, back = paired_difference(first, second), paired_difference(second, first)
    assert forth == paired_difference(first, second)
    assert forth.mean == -back.mean == 0.5
    assert paired_difference(first, first) == (0.0, (0.0, 0.0))


def test_paired_difference_resamples_the_same_pairs_every_time():
    a, b = np.random.default_rng(5).random((2, 60)) < [[0.7], [0.5]]
    once, again, other = (paired_difference({"t": a}, {"t": b}, resamples=150, seed=seed) for seed in (0, 0, 1))
    assert once == again != other


@pytest.mark.parametrize("place", [0, 19])
def test_paired_difference_draws_the_first_and_the_last_pair_too(place: int):
    first, second = np.arange(20) == place, np.zeros(20, bool)
    assert paired_difference({"t": first}, {"t": second}).interval.high > 0.0


def test_every_task_weighs_the_same():
    first = {"a": [True] * 2, "b": [True, False] * 2, "c": [False] * 20}
    assert score(first)["mean_rate"] == pytest.approx(0.5)
    nothing = {task: [False] * len(values) for task, values in first.items()}
    assert paired_difference(first, nothing).mean == pytest.approx(0.5)
    two_thirds = {"a": [True], "b": [True], "c": [False]}
    assert score(two_thirds)["mean_rate"] == pytest.approx(2 / 3)
    assert paired_difference(two_thirds, {task: [False] for task in two_thirds}).mean == pytest.approx(2 / 3)


def test_pairs_must_match():
    with pytest.raises(ValueError, match=r"expected the same tasks, got \['plush'\] and \['tissue'\]"):
        paired_difference({"plush": [True]}, {"tissue": [True]})
    with pytest.raises(ValueError, match="equally many trials of the same seeds, got 1 and 2"):
        mcnemar([True], [True, False])
    with pytest.raises(ValueError, match="equally many trials of the same seeds, got 0 and 0"):
        mcnemar([], [])


def test_score_has_the_keys_of_the_report():
    result = score({"plush": [True, False, True, True], "tissue": [False] * 4})
    assert result["mean_rate"] == 0.375
    assert set(result["tasks"]["plush"]) == {"successes", "trials", "rate", "interval"}
    assert result["tasks"]["plush"]["successes"] == 3
    assert result["tasks"]["tissue"]["interval"][0] == 0.0
