"""What strategies read (`Moment`) and answer (`Goal`). Pure data and small functions; base frame, SI, radians."""

import dataclasses
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Grasp:
    """A hand's shape in human terms, each 0 to 1.

    thumb_opposition: 0 beside the palm, 1 facing the fingers. thumb_closure, finger_closure (index and middle),
    support_closure (ring and little): 0 open, 1 closed. spread: 0 together, 1 apart.
    """

    thumb_opposition: float = 0.6
    thumb_closure: float = 0.0
    finger_closure: float = 0.0
    support_closure: float = 0.0
    spread: float = 0.0

    def vector(self) -> np.ndarray:
        """[5], the fields in order; `Grasp(*vector)` is the way back."""
        return np.array(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Goal:
    """Where the hand should go next.

    position: [3] m, where thumb and fingers meet. tilt: rad, 0 fingers straight down, pi/2 fingers level and palm down.
    yaw: rad about the vertical, 0 fingers away from the robot. speed: m/s at most. grasp_speed: closures per s at most.
    """

    position: np.ndarray
    tilt: float
    yaw: float
    grasp: Grasp
    speed: float = 0.20
    grasp_speed: float = 2.0


@dataclasses.dataclass(frozen=True)
class Moment:
    """What the operator perceives. position [3], tilt, yaw: the hand, measured. grasp: shown now.

    resistance: rad, how far the thumb, which opposes whatever is held, stays behind its command.
    state: the task's privileged state, with the operator's perception error.
    """

    time_s: float
    position: np.ndarray
    tilt: float
    yaw: float
    grasp: Grasp
    resistance: float
    state: Any


class Strategy(Protocol):
    """A state machine: one `step` per control step. phase: the name of its state, for people and tests."""

    phase: str

    def step(self, moment: Moment) -> Goal:
        """The goal for this moment."""
        ...


def fold_yaw(yaw: float) -> float:
    """The angle in [-pi/2, pi/2) of a direction whose sign does not matter."""
    return float((yaw + np.pi / 2) % np.pi - np.pi / 2)


def ramp(value: float, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, smooth between."""
    along = float(np.clip((value - low) / (high - low), 0.0, 1.0))
    return along * along * (3.0 - 2.0 * along)
