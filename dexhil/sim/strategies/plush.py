"""Plush: come from above, fingers on the far side and thumb on the near one, close, lift, hold; again on a slip."""

import numpy as np

from dexhil.sim.strategies.base import Goal, Grasp, Moment, fold_yaw, ramp
from dexhil.sim.tasks import PlushState

TILT = 0.85
MAX_YAW = 1.1
GRASP_HEIGHT_M = 0.052  # of the pinch point: the finger tips almost touch the table
CLEARANCE_M = 0.11
FELT_RAD = 0.25  # a closed hand that meets less resistance is empty: 0.15 there, 0.3 and more around a toy
SLIPPED_M = 0.09  # the toy is this far below the hand
LIFT_TO_M = 0.24
OPEN = Grasp(thumb_opposition=1.0, spread=0.4)
CLOSED = Grasp(1.0, 1.0, 1.0, 1.0, 0.4)


class PlushStrategy:
    """reach (a funnel that ends at the grasp) -> close -> lift, and back to reach when the toy is lost."""

    def __init__(self) -> None:
        self.phase = "reach"
        self._grasped_at, self._grasped_yaw = np.zeros(2), 0.0

    def step(self, moment: Moment) -> Goal:
        """See `Strategy`."""
        state: PlushState = moment.state
        yaw = float(np.clip(fold_yaw(state.yaw + np.pi / 2), -MAX_YAW, MAX_YAW))
        self._advance(moment, yaw)
        if self.phase == "reach":
            return self._reach(moment, yaw)
        height = GRASP_HEIGHT_M if self.phase == "close" else LIFT_TO_M
        position = np.array([*self._grasped_at, height])
        return Goal(position, TILT, self._grasped_yaw, CLOSED, speed=0.15)

    def _reach(self, moment: Moment, yaw: float) -> Goal:
        """Height follows the distance that is left, so that the hand is low only when it is above the toy."""
        away = _distance(moment, yaw)
        height = GRASP_HEIGHT_M + CLEARANCE_M * ramp(away, 0.012, 0.06)
        return Goal(np.array([*moment.state.grasp_point[:2], height]), TILT, yaw, OPEN)

    def _advance(self, moment: Moment, yaw: float) -> None:
        state: PlushState = moment.state
        low = moment.position[2] < GRASP_HEIGHT_M + 0.012 and moment.grasp.finger_closure < 0.2
        if self.phase == "reach" and low and _distance(moment, yaw) < 0.02:
            self._grasped_at, self._grasped_yaw = state.grasp_point[:2].copy(), yaw
            self.phase = "close"
        elif self.phase == "close" and moment.grasp.finger_closure > 0.97:
            self.phase = "lift" if moment.resistance > FELT_RAD else "reach"
        elif self.phase == "lift" and moment.position[2] - state.grasp_point[2] > SLIPPED_M:
            self.phase = "reach"


def _distance(moment: Moment, yaw: float) -> float:
    across = np.linalg.norm(moment.position[:2] - moment.state.grasp_point[:2])
    return float(across + 0.06 * abs(moment.yaw - yaw))
