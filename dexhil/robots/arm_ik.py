"""Inverse kinematics of the arm (DexHiL eq. 4): damped least squares on the geometric Jacobian. NumPy only.

Why not a library: it must run on a robot PC and beside a policy without MuJoCo; a solve from the last command takes a
few tenths of a millisecond, mink with quadprog took 7.7 ms on the same machine. Check the residual: a pose out of reach
gives a near one.
"""

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.robots.geometry import ee_of_palm, ee_pose, fr3_joint_frames
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF

METRES_PER_RADIAN = 0.2  # what a radian of rotation weighs against a metre of distance
DAMPING = 0.02
POSTURE_GAIN = 0.04  # fraction of the way home that free motion takes per solve
MAX_STEP_RAD = 0.3
TOLERANCE_M = 2e-4
ITERATIONS = 8

_LOWER, _UPPER = SPEC.lower[:ARM_DOF].astype(np.float64), SPEC.upper[:ARM_DOF].astype(np.float64)
_HOME = SPEC.home[:ARM_DOF].astype(np.float64)


@dataclasses.dataclass(frozen=True)
class IkSolution:
    """What came of a solve.

    Attributes:
        q_arm: float64 [7] rad within the limits.
        position_error: m that are left.
        rotation_error: rad that are left.
    """

    q_arm: np.ndarray
    position_error: float
    rotation_error: float


def forward(q_arm: np.ndarray) -> np.ndarray:
    """pose_base_ee [7] at `q_arm` [7] rad."""
    position, rotation = ee_pose(q_arm)
    return np.concatenate([position, Rotation.from_matrix(rotation).as_quat(scalar_first=True)])


def solve(pose_base_ee: np.ndarray, q_seed: np.ndarray, posture: np.ndarray = _HOME) -> IkSolution:
    """Joints near `q_seed` that bring `ee` to `pose_base_ee`.

    Args:
        pose_base_ee: [7].
        q_seed: [7] rad, the last command, so that successive targets stay smooth.
        posture: [7] rad that free motion drifts to, by default home; a seed there that solves the pose stays.
    """
    target = Rotation.from_quat(np.asarray(pose_base_ee[3:], np.float64), scalar_first=True).as_matrix()
    q_arm = np.clip(np.asarray(q_seed, np.float64), _LOWER, _UPPER)
    error, jacobian = _error_and_jacobian(pose_base_ee[:3], target, q_arm)
    drift = POSTURE_GAIN * (np.asarray(posture, np.float64) - q_arm)
    for _ in range(ITERATIONS):
        q_arm = np.clip(q_arm + _step(error, jacobian, drift), _LOWER, _UPPER)
        drift = np.zeros(ARM_DOF)
        error, jacobian = _error_and_jacobian(pose_base_ee[:3], target, q_arm)
        if np.linalg.norm(error) < TOLERANCE_M:
            break
    return IkSolution(q_arm, float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:])) / METRES_PER_RADIAN)


def _error_and_jacobian(position: np.ndarray, rotation: np.ndarray, q_arm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Error [6] and Jacobian [6, 7] in the base frame: metres, then radians times METRES_PER_RADIAN."""
    frames = fr3_joint_frames(q_arm)
    ee_position, ee_rotation = ee_of_palm(frames[-1])
    rotated = Rotation.from_matrix(rotation @ ee_rotation.T).as_rotvec()
    axes, origins = frames[:-1, :3, 2], frames[:-1, :3, 3]
    linear = np.cross(axes, ee_position - origins)
    jacobian = np.concatenate([linear, METRES_PER_RADIAN * axes], axis=1).T
    return np.concatenate([position - ee_position, METRES_PER_RADIAN * rotated]), jacobian


def _step(error: np.ndarray, jacobian: np.ndarray, drift: np.ndarray) -> np.ndarray:
    inverse = np.linalg.solve(jacobian @ jacobian.T + DAMPING**2 * np.eye(6), jacobian).T
    step = inverse @ error
    step += drift - inverse @ (jacobian @ drift)
    return step * min(1.0, MAX_STEP_RAD / max(float(np.abs(step).max()), 1e-9))
