"""Tissue: half-open fingers straddle the sheet above the pack, close while they sink the last bit, and pull up."""

import numpy as np

from dexhil.sim.strategies.base import Goal, Grasp, Moment, ramp
from dexhil.sim.tasks import TissueState

TILT = 0.85
ABOVE_LIP_M = 0.052  # of the pinch point before closing: open finger tips hang 4 cm lower
CLOSE_ABOVE_LIP_M = 0.020
CLEARANCE_M = 0.08
PULL_M = 0.15
PINCH_OFFSET_M = 0.006  # closing finger tips meet this far behind the pinch point, seen along the fingers
OPEN = Grasp(thumb_opposition=0.95, thumb_closure=0.22, finger_closure=0.22, support_closure=0.22)
PINCHED = Grasp(0.95, 0.62, 0.62, 0.62)


class TissueStrategy:
    """reach (a funnel that ends astride the sheet) -> close -> pull, and back to reach when the sheet was lost."""

    def __init__(self) -> None:
        self.phase = "reach"
        self._since = 0.0
        self._at = np.zeros(3)
        self._yaw = 0.0

    def step(self, moment: Moment) -> Goal:
        """See `Strategy`."""
        self._advance(moment)
        if self.phase == "reach":
            return self._reach(moment)
        if self.phase == "close":
            sunk = _raised(self._at, CLOSE_ABOVE_LIP_M - ABOVE_LIP_M)
            return Goal(sunk, TILT, self._yaw, PINCHED, speed=0.05, grasp_speed=0.8)
        return Goal(_raised(self._at, PULL_M), TILT, self._yaw, PINCHED, speed=0.08)

    def _reach(self, moment: Moment) -> Goal:
        """Height follows the distance that is left, so that the hand comes down on the sheet from above."""
        away = _distance(moment)
        target = pinch_point(moment.state, moment.state.normal_yaw)
        rise = CLEARANCE_M * ramp(away, 0.010, 0.05)
        return Goal(_raised(target, rise), TILT, moment.state.normal_yaw, OPEN, speed=0.14)

    def _advance(self, moment: Moment) -> None:
        target = pinch_point(moment.state, moment.state.normal_yaw)
        elapsed = moment.time_s - self._since
        if self.phase == "reach" and _distance(moment) < 0.012 and moment.position[2] < target[2] + 0.008:
            self._at, self._yaw = target, moment.state.normal_yaw
            self._enter("close", moment)
        elif self.phase == "close" and elapsed > 0.25 and moment.grasp.finger_closure > PINCHED.finger_closure - 0.05:
            self._enter("pull", moment)
        elif self.phase == "pull" and self._lost(moment):
            self._enter("reach", moment)

    def _lost(self, moment: Moment) -> bool:
        risen = moment.position[2] - (self._at[2] + CLOSE_ABOVE_LIP_M - ABOVE_LIP_M)
        return risen > 0.06 and not moment.state.in_hand

    def _enter(self, phase: str, moment: Moment) -> None:
        self.phase, self._since = phase, moment.time_s


def pinch_point(state: TissueState, yaw: float) -> np.ndarray:
    """Where the hand goes before closing, [3] m."""
    along = np.array([np.cos(yaw), np.sin(yaw)])
    return np.array([*(state.grasp_point[:2] + PINCH_OFFSET_M * along), state.lip[2] + ABOVE_LIP_M])


def _raised(point: np.ndarray, height: float) -> np.ndarray:
    return point + np.array([0.0, 0.0, height])


def _distance(moment: Moment) -> float:
    across = np.linalg.norm(moment.position[:2] - pinch_point(moment.state, moment.state.normal_yaw)[:2])
    return float(across + 0.04 * abs(moment.yaw - moment.state.normal_yaw))
