"""The way home, past what `dexhil.control.guard` forbids: of three straight ways, where one ends the next."""

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.robots import arm_ik
from dexhil.robots.poses import make_pose, rotation
from dexhil.robots.spec import RobotSpec
from dexhil.schema import ARM_DOF

HOMING_SPEED = 0.15  # fraction of the velocity limits
SPEED_M, SPEED_RAD = 0.05, 0.3  # per s, of a hand that goes straight
RISE_M = 0.1
JOINTS, HAND, UP = range(3)  # the ways
ENDS_RAD = 1e-4  # a hand's way that moves no joint by more in a tick has ended: the joints do the rest


class WayHome:
    """Joint targets that lead the arm home: `start` at rest, `step` every tick, `turn_back` where the guard stops it.

    The way is straight in joint space. Where that leads out of the box, the hand goes straight, as the box is convex.
    Where its rotation leads fingers out of it, the hand first rises as it is.
    """

    def __init__(self, spec: RobotSpec, max_velocity: np.ndarray, period_s: float) -> None:
        self._home = spec.home[:ARM_DOF].astype(np.float64)
        self._pose_base_home = arm_ik.forward(self._home)
        self._max_step, self._period_s = max_velocity * period_s, period_s
        self.start(self._home)

    def start(self, q_arm: np.ndarray) -> None:
        """Begins at `q_arm` [7] rad, at rest."""
        self._q_arm, self._way, self._goal = q_arm.astype(np.float64), JOINTS, self._pose_base_home

    def turn_back(self, q_arm: np.ndarray) -> None:
        """The next way, from `q_arm` [7] rad, at rest."""
        self._q_arm, self._way = q_arm.astype(np.float64), (self._way + 1) % 3
        here = arm_ik.forward(self._q_arm)
        above = make_pose(here[:3] + np.array([0.0, 0.0, RISE_M]), rotation(here))
        self._goal = above if self._way == UP else self._pose_base_home

    def step(self) -> np.ndarray:
        """The next target, float64 [7] rad."""
        after = self._with_joints(self._q_arm) if self._way == JOINTS else self._with_hand(self._q_arm)
        if self._way != JOINTS and np.abs(after - self._q_arm).max() < ENDS_RAD:
            after, self._way = self._with_joints(self._q_arm), JOINTS
        self._q_arm = after
        return after

    def _with_joints(self, q_arm: np.ndarray) -> np.ndarray:
        rest = self._home - q_arm
        return q_arm + rest / max(float((np.abs(rest) / self._max_step).max()), 1.0)

    def _with_hand(self, q_arm: np.ndarray) -> np.ndarray:
        here = arm_ik.forward(q_arm)
        rest = self._goal[:3] - here[:3]
        rotated = (rotation(self._goal) * rotation(here).inv()).as_rotvec()
        ticks = max(np.linalg.norm(rest) / SPEED_M, np.linalg.norm(rotated) / SPEED_RAD) / self._period_s
        fraction = 1.0 / max(float(ticks), 1.0)
        pose = make_pose(here[:3] + fraction * rest, Rotation.from_rotvec(fraction * rotated) * rotation(here))
        return arm_ik.solve(pose, q_arm).q_arm
