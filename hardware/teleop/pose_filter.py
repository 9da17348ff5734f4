"""One-Euro filters (Casiez et al. 2012) on poses and joints: smooth while the hand rests, quick while it moves."""

import dataclasses
from typing import TypeVar

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.robots.poses import make_pose, rotation

Hz = TypeVar("Hz", float, np.ndarray)

SPEED_CUTOFF_HZ = 1.0  # of the filter on the speed itself, as in the paper
LARGEST_GAP_S = 0.5  # a pose that comes later begins anew


def _fraction(cutoff_hz: Hz, elapsed_s: float) -> Hz:
    radians = 2.0 * np.pi * cutoff_hz * elapsed_s
    return radians / (radians + 1.0)


@dataclasses.dataclass
class JointFilter:
    """cutoff_hz: while at rest. per_radian: Hz more for every rad/s, joint by joint."""

    cutoff_hz: float = 3.0
    per_radian: float = 8.0
    _joints: np.ndarray | None = None
    _time: float = 0.0
    _speed: np.ndarray | None = None

    def __call__(self, joints: np.ndarray, time_s: float) -> np.ndarray:
        """The filtered joints [m] rad of those measured at `time_s`."""
        elapsed = time_s - self._time
        self._time = time_s
        if self._joints is None or self._speed is None or not 0.0 < elapsed <= LARGEST_GAP_S:
            self._joints, self._speed = joints, np.zeros_like(joints)
            return joints
        step = joints - self._joints
        self._speed = self._speed + _fraction(SPEED_CUTOFF_HZ, elapsed) * (step / elapsed - self._speed)
        self._joints = self._joints + _fraction(self.cutoff_hz + self.per_radian * np.abs(self._speed), elapsed) * step
        return self._joints


@dataclasses.dataclass
class PoseFilter:
    """cutoff_hz: while at rest. per_metre, per_radian: Hz more for every m/s and rad/s."""

    cutoff_hz: float = 2.0
    per_metre: float = 60.0
    per_radian: float = 8.0
    _pose: np.ndarray | None = None
    _time: float = 0.0
    _speed: float = 0.0
    _angular_speed: float = 0.0

    def __call__(self, pose: np.ndarray, time_s: float) -> np.ndarray:
        """The filtered pose [7] of one measured at `time_s`."""
        elapsed = time_s - self._time
        self._time, last = time_s, self._pose
        if last is None or not 0.0 < elapsed <= LARGEST_GAP_S:
            self._pose, self._speed, self._angular_speed = pose, 0.0, 0.0
            return pose
        step = pose[:3] - last[:3]
        rotated = (rotation(pose) * rotation(last).inv()).as_rotvec()
        kept = _fraction(SPEED_CUTOFF_HZ, elapsed)
        self._speed += kept * (float(np.linalg.norm(step)) / elapsed - self._speed)
        self._angular_speed += kept * (float(np.linalg.norm(rotated)) / elapsed - self._angular_speed)
        position = last[:3] + _fraction(self.cutoff_hz + self.per_metre * self._speed, elapsed) * step
        part = _fraction(self.cutoff_hz + self.per_radian * self._angular_speed, elapsed)
        self._pose = make_pose(position, Rotation.from_rotvec(part * rotated) * rotation(last))
        return self._pose
