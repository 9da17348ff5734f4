"""Loops at a fixed rate, on a grid of the monotonic clock that all processes share, and how late every tick was."""

import bisect
import math
import time
from typing import Any

import numpy as np

_EDGES_S = [float(edge) for edge in np.geomspace(1e-5, 10.0, 356)]  # bins 4 % wide, 10 us to 10 s


class LoopStats:
    """Rate and jitter of one loop, in monotonic s. Lateness is a histogram: its memory does not grow with the hours."""

    def __init__(self, hz: float) -> None:
        self._hz, self._ticks, self._missed = hz, 0, 0
        self._first = self._last = self._deadline = 0.0
        self._late = np.zeros(len(_EDGES_S) + 1, np.int64)

    def add(self, now: float, deadline: float) -> None:
        """A tick that began at `now`. Deadlines between its own and that of the last tick were missed."""
        if self._ticks == 0:
            self._first, self._deadline = now, deadline
        self._missed += max(round((deadline - self._deadline) * self._hz) - 1, 0)
        self._last, self._deadline, self._ticks = now, deadline, self._ticks + 1
        self._late[bisect.bisect_left(_EDGES_S, max(now - deadline, 0.0))] += 1

    def late_ms(self, percent: float) -> float:
        """Upper edge of the bin that holds the percentile, ms; 0 before the first tick."""
        if not self._ticks:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self._late), math.ceil(self._ticks * percent / 100)))
        return 1e3 * _EDGES_S[min(index, len(_EDGES_S) - 1)]

    def summary(self) -> dict[str, Any]:
        """The keys of a hardware report. jitter: of a tick after its deadline; missed: deadlines that were skipped."""
        span = self._last - self._first
        return {
            "target_hz": self._hz,
            "mean_hz": (self._ticks - 1) / span if span > 0 else 0.0,
            "jitter_p50_ms": self.late_ms(50),
            "jitter_p99_ms": self.late_ms(99),
            "missed": self._missed,
        }


class Pace:
    """Waits for the deadlines of one loop. offset_s: its phase on the common grid."""

    def __init__(self, hz: float, offset_s: float = 0.0) -> None:
        self._hz, self._offset = hz, offset_s
        self.stats = LoopStats(hz)
        self._index: int | None = None

    def wait(self) -> int:
        """Sleeps until the next deadline, returns its number on the grid; skips those missed by over a period."""
        now = time.monotonic()
        on_grid = (now - self._offset) * self._hz
        due = math.ceil(on_grid) if self._index is None else self._index + 1
        self._index = max(due, math.floor(on_grid))
        deadline = self._index / self._hz + self._offset
        if deadline > now:
            time.sleep(deadline - now)
            now = time.monotonic()
        self.stats.add(now, deadline)
        return self._index
