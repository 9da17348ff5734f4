"""How many paired trials show a difference of two success rates: exact power of the exact McNemar test."""

import bisect

import numpy as np
from scipy.stats import binom

MAX_PAIRS = 2**18  # of trials: where nobody runs as many, the answer is an error


def mcnemar_power(difference: float, discordant_rate: float, trials: int, alpha: float = 0.05) -> float:
    """Probability that `trials` pairs show the better policy as better: exact two-sided McNemar p-value <= alpha.

    The disagreeing pairs and the better policy's wins among them are binomial: both are summed over, without the normal
    approximation (Connor, Biometrics 43, 1987), which promises too much for few pairs.

    Args:
        difference: of the success rates, 0..discordant_rate.
        discordant_rate: fraction of pairs where exactly one succeeds.
        trials: pairs.
        alpha: significance level.

    Raises:
        ValueError: the rates are impossible.
    """
    if not 0 <= difference <= discordant_rate <= 1:
        raise ValueError(
            f"expected 0 <= difference <= discordant rate <= 1, got {difference} and {discordant_rate}: rates cannot "
            "differ by more than the fraction of the pairs that disagree"
        )
    if discordant_rate == 0:
        return 0.0
    disagreeing = np.arange(trials + 1)
    most_lost = binom.ppf(alpha / 2, disagreeing, 0.5)
    most_lost -= binom.cdf(most_lost, disagreeing, 0.5) > alpha / 2  # -1: not even all wins suffice
    loses = (1 - difference / discordant_rate) / 2
    return float(binom.pmf(disagreeing, trials, discordant_rate) @ binom.cdf(most_lost, disagreeing, loses))


def trials_needed(difference: float, discordant_rate: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Least pairs of trials that show a difference of success rates with probability `power` (see `mcnemar_power`).

    Raises:
        ValueError: not 0 < difference <= discordant_rate, or more than MAX_PAIRS are needed.
    """
    if difference <= 0:
        raise ValueError(
            f"difference {difference}: expected more than 0; no number of trials shows that rates are equal"
        )

    def power_of(pairs: int) -> float:
        return mcnemar_power(difference, discordant_rate, pairs, alpha)

    enough = 1
    while power_of(enough) < power:
        enough *= 2
        if enough > MAX_PAIRS:
            raise ValueError(
                f"difference {difference}: more than {MAX_PAIRS:,} pairs of trials are needed for a power of {power}"
            )
    return bisect.bisect_left(range(enough), power, lo=enough // 2 + 1, key=power_of)


def detectable_difference(trials: int, discordant_rate: float, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Smallest difference of success rates, in thousandths, that `trials` pairs show with probability `power`."""

    def power_of(thousandths: int) -> float:
        difference = thousandths / 1000
        return mcnemar_power(difference, max(difference, discordant_rate), trials, alpha)

    found = bisect.bisect_left(range(1001), power, key=power_of)
    return found / 1000 if found <= 1000 else None
