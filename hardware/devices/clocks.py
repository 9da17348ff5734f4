"""A device's clock on this machine's: times in, `time.monotonic()` seconds out. Standard library only."""

from __future__ import annotations

import dataclasses

DRIFT = 1e-4  # s per s that two clocks may run apart


@dataclasses.dataclass
class DeviceClock:
    """The fastest delivery seen tells how far the clocks are apart: all others came later, never earlier.

    What arrives late is old, however late. A clock that runs backwards started anew.
    """

    _offset: float = float("inf")
    _last: float = 0.0

    def to_monotonic(self, device_s: float, received_s: float) -> float:
        """When the device measured what it stamped `device_s` and what arrived at `received_s`."""
        gap = received_s - device_s
        elapsed, self._last = device_s - self._last, device_s
        if elapsed < 0.0:
            self._offset = gap
        self._offset = min(self._offset + DRIFT * max(elapsed, 0.0), gap)
        return device_s + self._offset
