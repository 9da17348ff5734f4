"""A camera that shows a moving test picture: for trying the stack without any camera."""

from __future__ import annotations

import time

import numpy as np

from hardware.streams import Sample, Stream


class Picture(Stream[np.ndarray]):
    """uint8 [size, size, 3]: a bright square that wanders over noise, a new picture every period_s."""

    def __init__(
        self, *, size: int = 64, period_s: float = 1 / 30, silent_s: float = 0.5, name: str = "camera"
    ) -> None:
        super().__init__(name, period_s, silent_s=silent_s, connect_s=3.0, remedy="it needs nothing")
        self._size, self._number, self._rng = size, 0, np.random.default_rng(0)

    def _open(self) -> None:
        self._next = time.monotonic()

    def _poll(self) -> Sample[np.ndarray]:
        self._next = max(self._next + self.period_s, time.monotonic())
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._number += 1
        picture = self._rng.integers(60, 90, (self._size, self._size, 3), np.uint8)
        at = self._number % (self._size - 8)
        picture[at : at + 8, at : at + 8] = 230
        return Sample(picture, time.monotonic())

    def _close(self) -> None:
        """Nothing is open."""
