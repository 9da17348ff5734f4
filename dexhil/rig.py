"""What a robot is to the rest of the project: simulated and real rigs implement the same four calls."""

import dataclasses
from typing import Annotated, Protocol

import numpy as np

from dexhil.robots.spec import RobotSpec
from dexhil.schema import Observation
from dexhil.settings import Bound, Count, Fraction, Positive, Settings


@dataclasses.dataclass(frozen=True)
class RigConfig(Settings):
    """A simulated rig: config section `rig`."""

    robot: str = "fr3_dexhand021"  # a name of dexhil.robots.spec
    tasks: tuple[str, ...] = ("plush", "tissue")
    difficulty: Fraction = 0.5  # 0 to 1, scales every randomisation of the tasks
    surroundings: Fraction = 0.5  # 0 to 1, the same of colours, light, cameras and clutter
    image_size: Annotated[Count, Bound("at most 2048", lambda value: value <= 2048)] = 64  # px, of a square
    cameras: tuple[str, ...] = ("scene", "wrist")
    control_hz: Positive = 20.0  # 1/s

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tasks", "cameras"):
            names = getattr(self, name)
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{name} {tuple(names)!r}: expected at least one, each once")


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
