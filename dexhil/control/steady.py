"""Motion as against sensor noise, sample by sample: what holds still within its noise stays exactly where it was.

Pure and without a clock, so that it means the same at 20 and at 90 Hz. Three parts for every group of numbers (a
position, a rotation, one finger joint), all in units of the group's noise: a low pass that opens as the group moves
(the One-Euro filter's idea), a band around it in which nothing moves, so that only net motion gets through and never
the path length of noise, and a catch-up: once the group moves, what the band has kept back is made good. Nothing ever
moves against the direction in which the group does.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

BAND = 3.2  # noises around the centre in which nothing moves
SETTLING = 6  # samples over which the centre is the mean: the first one alone is as noisy as any
AT_REST, REPEATED = 0.12, 0.02  # fraction of the way to a new sample, and to one that is shown again (slow devices)
SPEED_GAIN = 0.2  # of the low pass on the speed
SLOW, FAST = 0.7, 1.5  # noises per sample: below, the low pass is that at rest; above, it is open
CATCH_UP = 0.3  # of what the band kept back, per band of motion
LAG = 5.0  # noises by which the low pass is behind at most


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise of n numbers in groups that begin at `starts`; `size` [groups]: one standard deviation of a number."""

    starts: Sequence[int]
    size: np.ndarray

    def lengths(self, values: np.ndarray) -> np.ndarray:
        """[groups], the norm of each group of `values` [n], in noises."""
        return np.sqrt(np.add.reduceat(values**2, self.starts)) / self.size

    def spread(self, per_group: np.ndarray, n: int) -> np.ndarray:
        """[n], each group's number for each of its members."""
        return np.repeat(per_group, np.diff([*self.starts, n]))


@dataclasses.dataclass(frozen=True)
class Steady:
    """Where n numbers are; `value` is to follow, `centre` is the band's, `count` [groups] counts different samples."""

    value: np.ndarray
    raw: np.ndarray
    speed: np.ndarray
    mean: np.ndarray
    centre: np.ndarray
    count: np.ndarray


def begin(sample: np.ndarray, noise: Noise) -> Steady:
    """At rest at `sample` [n]."""
    sample = np.array(sample, np.float64)
    return Steady(sample, sample, np.zeros_like(sample), sample, sample, np.ones(len(noise.starts)))


def follow(before: Steady, sample: np.ndarray, noise: Noise) -> Steady:
    """After the next `sample` [n]."""
    n = len(sample)
    step = sample - before.raw
    fresh = noise.lengths(step) > 0.0
    count = before.count + fresh
    speed = before.speed + SPEED_GAIN * (step - before.speed)
    opened = np.clip((noise.lengths(speed) - SLOW) / (FAST - SLOW), 0.0, 1.0)
    at_rest = np.where(fresh, np.maximum(AT_REST, 1.0 / count), REPEATED)
    behind = noise.lengths(sample - before.mean)
    opened = np.maximum(opened, 1.0 - LAG / np.maximum(behind, LAG))
    mean = before.mean + noise.spread(at_rest + (1.0 - at_rest) * opened, n) * (sample - before.mean)
    centre = np.where(noise.spread(fresh & (count <= SETTLING) & (opened < 0.75), n), mean, before.centre)
    away = noise.lengths(mean - centre)
    beyond = np.maximum(away - BAND, 0.0)
    move = (mean - centre) * noise.spread(beyond / np.maximum(away, BAND), n)
    left = mean - before.value - move
    along = noise.spread(np.add.reduceat(left * move, noise.starts) > 0.0, n)
    caught_up = left * along * noise.spread(1.0 - np.exp(-CATCH_UP * beyond / BAND), n)
    return Steady(before.value + move + caught_up, sample, speed, mean, centre + move, count)
