"""What a robot is to the rest of the project: simulated and real rigs implement the same four calls."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from dexhil.robots.spec import RobotSpec
from dexhil.schema import Observation


class Rig(Protocol):
    """One arm, one hand and their cameras, at a fixed control rate."""

    spec: RobotSpec
    control_hz: float

    def reset(self, *, task: str, seed: int) -> Observation:
        """Starts an episode of `task`. In simulation the same seed gives the same initial state, bit for bit."""
        ...

    def observe(self) -> Observation:
        """The current observation."""
        ...

    def apply(self, action: np.ndarray) -> np.ndarray:
        """Sends `action` [A] rad for one control period; returns the command after safety limits [A]."""
        ...

    def stop(self) -> None:
        """Brings the robot to rest. May be called again."""
        ...
