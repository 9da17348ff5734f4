"""A camera that sees a rendered cube."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from hardware.devices.streams import Sample, Stream
from hardware.emulators.cube import Scene, camera, clutter, render


class CubeCamera(Stream[np.ndarray]):
    """A camera that sees the cube at `pose(t)` [7], t s since it was connected, or nothing where that is None.

    frozen: set it and no new frame comes.
    """

    def __init__(
        self, pose: Callable[[float], np.ndarray | None], scene: Scene | None = None, *, name: str = "camera",
        period_s: float = 1 / 30,
    ) -> None:  # fmt: skip
        super().__init__(name, period_s, silent_s=0.3, connect_s=10.0, remedy="check the rendered camera")
        self._pose, self.scene = pose, scene or camera(640, 480, 620.0)
        self.frozen = False

    def _open(self) -> None:
        self._rng = np.random.default_rng(0)
        self._background = clutter(self.scene, self._rng)
        self._began = self._next = time.monotonic()

    def _close(self) -> None:
        pass

    def _poll(self) -> Sample[np.ndarray] | None:
        self._wait_period()
        if self.frozen:
            return None
        now = time.monotonic()
        pose = self._pose(now - self._began)
        far = np.array([0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0])  # behind the camera
        grey = render(far if pose is None else pose, self.scene, self._background, self._rng)
        return Sample(np.repeat(grey[..., None], 3, axis=-1), now)
