"""How sure a success rate is: Wilson intervals, paired tests and paired differences. Plain Python and NumPy."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

Outcomes = Mapping[str, Sequence[bool] | np.ndarray]  # task -> one outcome per trial, in the order of the seeds


class Interval(NamedTuple):
    """Bounds of a confidence interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """Mean difference of two success rates and its 95 % interval."""

    mean: float
    interval: Interval


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a success rate, sensible at 0 and at all successes too. Source: Wilson, JASA 22 (1927).

    Raises:
        ValueError: not 0 <= successes <= trials, or no trials.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"wilson: expected 0 <= successes <= trials and trials > 0, got {successes} of {trials}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, z2 = successes / trials, z * z
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def mcnemar(first: Sequence[bool] | np.ndarray, second: Sequence[bool] | np.ndarray) -> float:
    """Exact two-sided p-value that two policies succeed equally often, from paired outcomes [N].

    Only the pairs that disagree count; under the null each is a fair coin.

    Raises:
        ValueError: the lengths differ.
    """
    a, b = _paired(first, second)
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
    return min(1.0, 2 * tail)


def paired_difference(first: Outcomes, second: Outcomes, *, resamples: int = 10_000, seed: int = 0) -> Difference:
    """Mean over tasks of (rate of first - rate of second), with a 95 % bootstrap interval.

    Pairs are resampled within each task, so a pair stays together and every task keeps its weight.

    Raises:
        ValueError: tasks or numbers of trials differ.
    """
    if first.keys() != second.keys():
        raise ValueError(f"paired_difference: expected the same tasks, got {sorted(first)} and {sorted(second)}")
    rng = np.random.default_rng(seed)
    means, draws = [], np.zeros(resamples)
    for task in first:
        a, b = _paired(first[task], second[task])
        difference = a.astype(float) - b
        chosen = rng.integers(0, len(difference), size=(resamples, len(difference)))
        means.append(difference.mean())
        draws += difference[chosen].mean(axis=1) / len(first)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Difference(float(np.mean(means)), Interval(float(low), float(high)))


def compare(ours: Outcomes, theirs: Outcomes) -> dict[str, Any]:
    """Ours - theirs over the pairs that both have; the interval covers trials, not training seeds.

    Returns:
        {"pairs", "mean", "interval" (95 %), "mcnemar_p", "tasks": {task: {"pairs", "both", "only_this", "only_other",
        "neither"}}}.
    """
    pairs = {task: list(zip(ours[task], theirs[task], strict=False)) for task in ours}
    first, second = ({task: [pair[i] for pair in pairs[task]] for task in pairs} for i in (0, 1))
    difference = paired_difference(first, second)
    flat = [pair for task in pairs.values() for pair in task]
    return {
        "pairs": len(flat),
        "mean": difference.mean,
        "interval": list(difference.interval),
        "mcnemar_p": mcnemar(*zip(*flat, strict=True)),
        "tasks": {task: _counts(found) for task, found in pairs.items()},
    }


def score(outcomes: Outcomes) -> dict[str, Any]:
    """{"tasks": {task: {"successes", "trials", "rate", "interval"}}, "mean_rate"}: the results of an evaluation."""
    tasks = {task: _task_score(list(values)) for task, values in outcomes.items()}
    return {"tasks": tasks, "mean_rate": float(np.mean([entry["rate"] for entry in tasks.values()]))}


def _task_score(values: Sequence[bool]) -> dict[str, Any]:
    successes, trials = sum(map(bool, values)), len(values)
    interval = list(wilson(successes, trials))
    return {"successes": successes, "trials": trials, "rate": successes / trials, "interval": interval}


def _paired(first: Sequence[bool] | np.ndarray, second: Sequence[bool] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(f"paired outcomes: expected equally many trials of the same seeds, got {len(a)} and {len(b)}")
    return a, b


def _counts(pairs: list[tuple[bool, bool]]) -> dict[str, int]:
    kinds = {"both": (True, True), "only_this": (True, False), "only_other": (False, True), "neither": (False, False)}
    return {"pairs": len(pairs), **{name: pairs.count(kind) for name, kind in kinds.items()}}
