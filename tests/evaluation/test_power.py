"""Power of paired trials: against simulation, an independent formula, and itself."""

from __future__ import annotations

import numpy as np
import pytest

from dexhil.evaluation import power
from dexhil.evaluation.intervals import mcnemar
from dexhil.evaluation.power import detectable_difference, mcnemar_power, trials_needed


def simulated_power(difference: float, discordant_rate: float, trials: int, studies: int) -> float:
    """Share of simulated studies in which `mcnemar` finds the better policy better at 5 %."""
    wins, losses = (discordant_rate + difference) / 2, (discordant_rate - difference) / 2
    counts = np.random.default_rng(0).multinomial(trials, [wins, losses, 1 - wins - losses], size=studies)
    outcomes, repeats = np.unique(counts[:, :2], axis=0, return_counts=True)
    found = [
        won > lost and mcnemar([True] * won + [False] * lost, [False] * won + [True] * lost) <= 0.05
        for won, lost in outcomes
        if won + lost
    ]
    return float(np.asarray(found, float) @ repeats[outcomes.sum(axis=1) > 0]) / studies


@pytest.mark.parametrize(("difference", "discordant_rate"), [(0.3, 0.4), (0.2, 0.2), (0.25, 0.6), (0.3, 1.0)])
def test_the_number_of_trials_gives_the_power_in_simulation(difference: float, discordant_rate: float):
    trials = trials_needed(difference, discordant_rate)
    expected = mcnemar_power(difference, discordant_rate, trials)
    assert expected >= 0.8 > mcnemar_power(difference, discordant_rate, trials - 1)
    # 4,000 studies: a share of 0.8 has the standard error sqrt(0.8 * 0.2 / 4000) = 0.0063; three of them are allowed.
    assert simulated_power(difference, discordant_rate, trials, 4000) == pytest.approx(expected, abs=0.019)


@pytest.mark.parametrize("discordant_rate", [0.2, 0.4, 1.0])
def test_many_trials_agree_with_the_normal_approximation(discordant_rate: float):
    difference, z_alpha, z_power = 0.05, 1.959964, 0.841621
    root = z_alpha * discordant_rate**0.5 + z_power * (discordant_rate - difference**2) ** 0.5
    connor = (root / difference) ** 2
    # The exact test is discrete and costs a little more, about 1 / difference pairs.
    assert connor < trials_needed(difference, discordant_rate) < connor + 2 / difference


def test_more_is_needed_for_less_and_where_more_pairs_disagree():
    assert [trials_needed(d, 0.4) for d in (0.3, 0.2, 0.1)] == sorted(trials_needed(d, 0.4) for d in (0.3, 0.2, 0.1))
    assert trials_needed(0.2, 0.3) < trials_needed(0.2, 0.6) < trials_needed(0.2, 1.0)
    assert trials_needed(0.2, 0.4, power=0.9) > trials_needed(0.2, 0.4)
    assert trials_needed(0.2, 0.4, alpha=0.01) > trials_needed(0.2, 0.4)


def test_the_detectable_difference_is_the_inverse():
    difference = detectable_difference(100, 0.5)
    assert difference is not None
    assert mcnemar_power(difference, 0.5, 100) >= 0.8 > mcnemar_power(difference - 0.002, 0.5, 100)


def test_six_pairs_are_the_least_that_can_show_anything():
    assert detectable_difference(5, 0.5) is None
    assert detectable_difference(0, 0.5) is None
    assert trials_needed(1.0, 1.0) == 6
    assert detectable_difference(6, 0.5) == pytest.approx(0.8 ** (1 / 6), abs=0.001)  # all six must be won


def test_equal_rates_are_found_different_at_most_as_often_as_the_tail_allows():
    assert 0.0 < mcnemar_power(0.0, 0.3, 60) <= 0.025
    assert mcnemar_power(0.0, 0.0, 60) == 0.0


def test_a_p_value_that_equals_alpha_counts():
    assert mcnemar_power(1.0, 1.0, 5, alpha=2 / 2**5) == 1.0
    assert mcnemar_power(1.0, 1.0, 5, alpha=2 / 2**5 - 1e-9) == 0.0


def test_a_power_that_is_just_reached_is_enough(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(power, "MAX_PAIRS", 8)
    assert trials_needed(1.0, 1.0, power=1.0) == 6
    with pytest.raises(ValueError, match="more than 8 pairs of trials"):
        trials_needed(0.9, 0.9, power=0.99)


def test_a_stricter_alpha_shows_less():
    assert detectable_difference(6, 0.5, alpha=0.01) is None
    loose, strict = detectable_difference(60, 0.5, alpha=0.05), detectable_difference(60, 0.5, alpha=0.01)
    assert loose is not None
    assert strict is not None
    assert loose < strict


def test_impossible_rates_are_refused():
    with pytest.raises(ValueError, match=r"0 <= difference <= discordant rate <= 1, got 0.3 and 0.2"):
        trials_needed(0.3, 0.2)
    with pytest.raises(ValueError, match=r"difference 0: expected more than 0"):
        trials_needed(0, 0.2)


def test_differences_that_nobody_can_show_are_refused():
    with pytest.raises(ValueError, match=r"difference 0.001: more than 262,144 pairs of trials are needed for a power"):
        trials_needed(0.001, 1.0)
