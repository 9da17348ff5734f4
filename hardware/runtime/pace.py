"""Loops at a fixed rate: absolute deadlines, so that nothing drifts, and how late every tick was.

Deadlines lie on the grid k / hz + offset of the monotonic clock, which all processes of a machine share: loops of
different processes keep their phase to each other without a word.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

_EDGES_S = [float(edge) for edge in np.geomspace(1e-5, 10.0, 356)]  # bins 4 % wide, 10 us to 10 s


class Lateness:
    """How late ticks were, as a histogram: its memory does not grow with the hours."""

    def __init__(self) -> None:
        self._counts = np.zeros(len(_EDGES_S) + 1, np.int64)

    def add(self, seconds: float) -> None:
        self._counts[bisect.bisect_left(_EDGES_S, seconds)] += 1

    def percentile_ms(self, percent: float) -> float:
        """Upper edge of the bin that holds the percentile, ms; 0 before the first tick."""
        total = int(self._counts.sum())
        if not total:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self._counts), math.ceil(total * percent / 100)))
        return 1e3 * _EDGES_S[min(index, len(_EDGES_S) - 1)]


class LoopStats:
    """Rate and jitter of one loop. Times are monotonic s."""

    def __init__(self, hz: float) -> None:
        self.hz = hz
        self.reset()

    def reset(self) -> None:
        self._late, self._ticks, self._missed = Lateness(), 0, 0
        self._first = self._last = 0.0

    def add(self, now: float, deadline: float, missed: int = 0) -> None:
        """A tick that began at `now`. missed: deadlines before it that had no tick of their own."""
        self._first = now if self._ticks == 0 else self._first
        self._last, self._ticks, self._missed = now, self._ticks + 1, self._missed + missed
        self._late.add(max(now - deadline, 0.0))

    def summary(self) -> dict[str, Any]:
        """The keys of a hardware report. jitter: how long after its deadline a tick began; missed: deadlines that a
        loop met more than one period late, which it then skips.
        """
        span = self._last - self._first
        return {
            "target_hz": self.hz,
            "mean_hz": (self._ticks - 1) / span if span > 0 else 0.0,
            "jitter_p50_ms": self._late.percentile_ms(50),
            "jitter_p99_ms": self._late.percentile_ms(99),
            "missed": self._missed,
        }


class Pace:
    """Waits for the deadlines of one loop. offset_s: its phase on the common grid."""

    def __init__(
        self,
        hz: float,
        *,
        offset_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.hz, self._offset, self._clock, self._sleep = hz, offset_s, clock, sleep
        self.stats = LoopStats(hz)
        self._index: int | None = None

    def wait(self) -> int:
        """Sleeps until the next deadline and returns its number on the grid. Deadlines missed by more than a period are
        skipped, never made up for in a burst.
        """
        now = self._clock()
        due = math.ceil(self._on_grid(now)) if self._index is None else self._index + 1
        newest = math.floor(self._on_grid(now))
        missed = newest - due if newest > due else 0  # `due` is more than one period ago
        due += missed
        deadline = self._deadline(due)
        if deadline > now:
            self._sleep(deadline - now)
            now = self._clock()
        self._index = due
        self.stats.add(now, deadline, missed)
        return due

    def _on_grid(self, now: float) -> float:
        return (now - self._offset) * self.hz

    def _deadline(self, index: int) -> float:
        return index / self.hz + self._offset
