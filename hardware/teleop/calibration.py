"""Calibration: a camera's intrinsics on disk, and where camera, cube and hand are. OpenCV, NumPy and SciPy.

A cube that is fixed to the robot's hand, seen by a fixed camera at several poses of the arm, gives both constants at
once: `T_base_camera T_camera_cube = T_base_ee T_ee_cube`. `T_ee_cube` is the inverse of `C` of DexHiL eq. 3.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import RigidTransform, Rotation

from dexhil.commands import to_json, write_json
from dexhil.robots import arm_ik
from dexhil.robots.poses import inverse, make_pose, rotation
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF
from hardware.devices.base import Arm, ArmState, DeviceError, Tracker
from hardware.teleop.cube import Intrinsics

MIN_PAIRS = 5
REACH_RAD, REACH_M = 0.45, 0.05  # of the poses that are visited, around where the arm is
SAMPLES, PATIENCE_S = 10, 3.0  # of the cube at a pose, and within how long
SETTLE_S = 1.0  # an arm swings a little when it stops
MIN_ROTATION_RAD = 0.35  # the arm has to turn so far, about two axes, for the rotations to be told apart
RADIANS_PER_METRE = 5.0  # what a metre of misfit weighs against a radian


@dataclasses.dataclass(frozen=True)
class HandEye:
    """pose_base_camera, pose_ee_cube: [7]. position_mm, rotation_deg: [n], misfit of each pair of poses."""

    pose_base_camera: np.ndarray
    pose_ee_cube: np.ndarray
    position_mm: np.ndarray
    rotation_deg: np.ndarray

    @property
    def cube_to_ee(self) -> np.ndarray:
        """[7], the constant `C` of DexHiL eq. 3 for `dexhil.control.takeover`."""
        return inverse(self.pose_ee_cube)

    def report(self) -> str:
        """Misfit in words, for the person at the robot."""
        worst = int(np.argmax(self.position_mm))
        return (
            f"{len(self.position_mm)} poses, misfit {np.median(self.position_mm):.2f} mm and "
            f"{np.median(self.rotation_deg):.2f} degrees (median), worst pose {worst}: "
            f"{self.position_mm[worst]:.2f} mm and {self.rotation_deg[worst]:.2f} degrees"
        )


def load_intrinsics(path: str | Path) -> Intrinsics:
    """The camera in a file of `save_intrinsics`. Raises ValueError where it is none."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; write the camera's intrinsics with hardware/calibrate.py camera")
    try:
        facts = json.loads(path.read_text())
        matrix, distortion = np.array(facts["matrix"], np.float64), np.array(facts["distortion"], np.float64)
        size = int(facts["width"]), int(facts["height"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected JSON with matrix, distortion, width and height: {type(error).__name__}: {error}"
        ) from None
    if matrix.shape != (3, 3) or distortion.ndim != 1 or not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise ValueError(f"{path}: expected a matrix [3, 3] of pixels and distortion [k]; got {facts}")
    return Intrinsics(matrix, distortion, size)


def save_intrinsics(intrinsics: Intrinsics, path: str | Path, *, width: int, height: int) -> None:
    """Writes JSON: matrix, distortion, and the size in pixels for which they hold."""
    facts = {"matrix": intrinsics.matrix, "distortion": intrinsics.distortion, "width": width, "height": height}
    save(Path(path), facts)


def save(path: Path, facts: dict[str, Any]) -> None:
    """Writes JSON, arrays as lists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, to_json(facts))


def solve_hand_eye(poses_base_ee: np.ndarray, poses_camera_cube: np.ndarray) -> HandEye:
    """From pairs [n, 7] taken at the same time, arm at rest: linear (cv2.calibrateHandEye), then refined on the misfit.

    A camera on the hand that looks at a fixed cube: pass the inverse poses of the arm; the results are then T_ee_camera
    and T_base_cube.

    Raises:
        ValueError: there are too few poses, or they hardly turn.
    """
    ee, cube = np.asarray(poses_base_ee, np.float64), np.asarray(poses_camera_cube, np.float64)
    if ee.shape != cube.shape or ee.ndim != 2 or ee.shape[1] != 7 or len(ee) < MIN_PAIRS:
        raise ValueError(
            f"hand-eye: expected {MIN_PAIRS} pairs of poses [n, 7] or more, got {ee.shape} and {cube.shape}"
        )
    arm, seen = _transform(ee), _transform(cube)
    _check_rotations(arm.rotation)
    back = arm.inv()
    matrix, position = cv2.calibrateHandEye(
        list(back.rotation.as_matrix()), list(back.translation), list(seen.rotation.as_matrix()),
        list(seen.translation), method=cv2.CALIB_HAND_EYE_PARK,
    )  # fmt: skip
    base_camera = RigidTransform.from_components(position.ravel(), Rotation.from_matrix(matrix))
    ee_cube = arm[0].inv() * base_camera * seen[0]

    def misfit(x: np.ndarray) -> np.ndarray:
        """[n, 6] m and rad, of the cube that the camera sees in the cube that the arm carries."""
        return _vector((arm * _of_vector(x[6:])).inv() * (_of_vector(x[:6]) * seen))

    weights = np.array([*[RADIANS_PER_METRE] * 3, 1.0, 1.0, 1.0])
    start = np.concatenate([_vector(base_camera), _vector(ee_cube)])
    found = least_squares(lambda x: (weights * misfit(x)).ravel(), start).x
    apart, (base_camera, ee_cube) = misfit(found), map(_of_vector, np.split(found, 2))
    return HandEye(
        make_pose(base_camera.translation, base_camera.rotation), make_pose(ee_cube.translation, ee_cube.rotation),
        1e3 * np.linalg.norm(apart[:, :3], axis=1), np.degrees(np.linalg.norm(apart[:, 3:], axis=1)),
    )  # fmt: skip


def _check_rotations(rotations: Rotation) -> None:
    spread = np.linalg.svd((rotations[0].inv() * rotations).as_rotvec(), compute_uv=False) / np.sqrt(len(rotations))
    if spread[1] < MIN_ROTATION_RAD / 2:
        raise ValueError(
            f"hand-eye: the poses turn the hand by {spread[0]:.2f} and {spread[1]:.2f} rad about two axes; turn "
            f"it about {MIN_ROTATION_RAD:g} rad or more about two different ones"
        )


def _transform(poses: np.ndarray) -> RigidTransform:
    return RigidTransform.from_components(poses[:, :3], Rotation.from_quat(poses[:, 3:], scalar_first=True))


def _vector(transform: RigidTransform) -> np.ndarray:
    return np.concatenate([transform.translation, transform.rotation.as_rotvec()], axis=-1)


def _of_vector(vector: np.ndarray) -> RigidTransform:
    return RigidTransform.from_components(vector[:3], Rotation.from_rotvec(vector[3:]))


def turned_around(q_arm: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Joints [7] rad of poses around where the arm is, turned every way: what hand-eye calibration needs."""
    home, lower, upper = arm_ik.forward(q_arm), SPEC.lower[:ARM_DOF] + 0.05, SPEC.upper[:ARM_DOF] - 0.05
    targets: list[np.ndarray] = []
    for _ in range(20 * count):
        direction = rng.normal(size=3)
        turn = Rotation.from_rotvec(REACH_RAD * rng.uniform(0.5, 1.0) * direction / np.linalg.norm(direction))
        pose = make_pose(home[:3] + rng.uniform(-REACH_M, REACH_M, 3), rotation(home) * turn)
        found = arm_ik.solve(pose, q_arm, posture=q_arm)
        inside = (found.q_arm > lower).all() and (found.q_arm < upper).all()
        if inside and found.position_error < 1e-3 and found.rotation_error < 0.01:
            targets.append(found.q_arm)
        if len(targets) == count:
            return targets
    raise ValueError(f"only {len(targets)} of {count} poses around the arm can be reached; begin in mid-range")


def visit(arm: Arm, tracker: Tracker, target: np.ndarray, speed: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Moves the arm at `speed` rad/s to `target` [7] rad, and looks: pose_base_ee and pose_camera_cube, [7] each.

    None where the cube is not seen SAMPLES times within PATIENCE_S of the arm's coming to rest. Raises DeviceError.
    """
    begin = _latest(arm).q
    steps = max(1, round(float(np.abs(target - begin).max()) / (speed * arm.period_s)))
    for step in range(1, steps + 1):
        arm.command(begin + (target - begin) * step / steps, time.monotonic() + arm.period_s, 0)
        time.sleep(arm.period_s)
    time.sleep(SETTLE_S)
    seen: list[np.ndarray] = []
    last, end = 0, time.monotonic() + PATIENCE_S
    while len(seen) < SAMPLES and time.monotonic() < end:
        reading = tracker.read()
        if reading is not None and reading.valid and reading.seq != last:
            last = reading.seq
            seen.append(reading.value)
        time.sleep(0.2 * tracker.period_s)
    if len(seen) < SAMPLES:
        return None
    return _latest(arm).pose_base_ee, mean_pose(np.stack(seen))


def _latest(arm: Arm) -> ArmState:
    reading = arm.read()
    if reading is None or not reading.valid:
        raise DeviceError(arm.health().message or f"{arm.name}: no valid reading")
    return reading.value


def mean_pose(poses: np.ndarray) -> np.ndarray:
    """The middle [7] of poses [n, 7] that are near to each other."""
    return make_pose(poses[:, :3].mean(axis=0), Rotation.concatenate([rotation(pose) for pose in poses]).mean())
