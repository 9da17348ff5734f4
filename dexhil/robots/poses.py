"""Poses as [x y z m, qw qx qy qz]: composing and inverting. NumPy and SciPy only."""

import numpy as np
from scipy.spatial.transform import Rotation

IDENTITY = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])


def compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`T_first T_second`: the pose [7] that `second` [7], given in the frame `first` [7], has outside of it."""
    turn = rotation(first)
    return make_pose(first[:3] + turn.apply(second[:3]), turn * rotation(second))


def inverse(pose: np.ndarray) -> np.ndarray:
    """`T^-1` [7]."""
    back = rotation(pose).inv()
    return make_pose(-back.apply(pose[:3]), back)


def rotation(pose: np.ndarray) -> Rotation:
    """The rotation of a pose [7]."""
    return Rotation.from_quat(np.asarray(pose[3:], np.float64), scalar_first=True)


def make_pose(position: np.ndarray, turn: Rotation) -> np.ndarray:
    """Pose [7] from position [3] m and rotation."""
    return np.concatenate([position, turn.as_quat(scalar_first=True)])
