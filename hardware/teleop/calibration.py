"""Calibration: a camera's intrinsics on disk, and where camera, cube and hand are. OpenCV, NumPy and SciPy.

A cube that is fixed to the robot's hand, seen by a fixed camera at several poses of the arm, gives both constants at
once: `T_base_camera T_camera_cube = T_base_ee T_ee_cube`. `T_ee_cube` is the inverse of `C` of DexHiL eq. 3.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from dexhil.robots import arm_ik
from dexhil.robots.poses import compose, inverse, make_pose, rotation
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF
from hardware.devices.base import Arm, ArmState, DeviceError, Tracker
from hardware.teleop.cube import Intrinsics

FEWEST = 5
SETTLE_S = 1.0  # an arm swings a little when it stops
LEAST_TURN_RAD = 0.35  # the arm has to turn so far, about two axes, for the rotations to be told apart
RADIANS_PER_METRE = 5.0  # what a metre of misfit weighs against a radian


@dataclasses.dataclass(frozen=True)
class HandEye:
    """pose_base_camera, pose_ee_cube: [7]. position_mm, turn_deg: [n], misfit of each pair of poses."""

    pose_base_camera: np.ndarray
    pose_ee_cube: np.ndarray
    position_mm: np.ndarray
    turn_deg: np.ndarray

    @property
    def cube_to_ee(self) -> np.ndarray:
        """[7], the constant `C` of DexHiL eq. 3 for `dexhil.control.takeover`."""
        return inverse(self.pose_ee_cube)

    def report(self) -> str:
        """Misfit in words, for the person at the robot."""
        worst = int(np.argmax(self.position_mm))
        return (
            f"{len(self.position_mm)} poses, misfit {np.median(self.position_mm):.2f} mm and "
            f"{np.median(self.turn_deg):.2f} degrees (median), worst pose {worst}: "
            f"{self.position_mm[worst]:.2f} mm and {self.turn_deg[worst]:.2f} degrees"
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
    facts = {
        "matrix": intrinsics.matrix.tolist(), "distortion": intrinsics.distortion.tolist(), "width": width,
        "height": height,
    }  # fmt: skip
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(facts, indent=1) + "\n")


def solve_hand_eye(poses_base_ee: np.ndarray, poses_camera_cube: np.ndarray) -> HandEye:
    """From pairs [n, 7] taken at the same time, arm at rest: linear (cv2.calibrateHandEye), then refined on the misfit.

    A camera on the hand that looks at a fixed cube: pass the inverse poses of the arm; the results are then T_ee_camera
    and T_base_cube. Raises ValueError for too few poses, or poses that hardly turn.
    """
    ee, cube = np.asarray(poses_base_ee, np.float64), np.asarray(poses_camera_cube, np.float64)
    if ee.shape != cube.shape or ee.ndim != 2 or ee.shape[1] != 7 or len(ee) < FEWEST:
        raise ValueError(f"hand-eye: expected {FEWEST} pairs of poses [n, 7] or more, got {ee.shape} and {cube.shape}")
    _check_turns(ee)
    arm = [inverse(pose) for pose in ee]
    turn, position = cv2.calibrateHandEye(*_parts(arm), *_parts(cube), method=cv2.CALIB_HAND_EYE_PARK)
    base_camera = make_pose(position.ravel(), Rotation.from_matrix(turn))
    ee_cube = compose(compose(inverse(ee[0]), base_camera), cube[0])
    fit = least_squares(
        lambda x: _misfit(x, ee, cube).ravel(), np.concatenate([_vector(base_camera), _vector(ee_cube)])
    )
    misfit = _misfit(fit.x, ee, cube)
    return HandEye(
        _pose(fit.x[:6]), _pose(fit.x[6:]),
        1e3 * np.linalg.norm(misfit[:, :3], axis=1) / RADIANS_PER_METRE,
        np.degrees(np.linalg.norm(misfit[:, 3:], axis=1)),
    )  # fmt: skip


def _check_turns(poses: np.ndarray) -> None:
    turns = Rotation.concatenate([rotation(poses[0]).inv() * rotation(pose) for pose in poses]).as_rotvec()
    spread = np.linalg.svd(turns, compute_uv=False)[:2] / np.sqrt(len(poses))
    if spread[1] < LEAST_TURN_RAD / 2:
        raise ValueError(
            f"hand-eye: the poses turn the hand by {spread[0]:.2f} and {spread[1]:.2f} rad about two axes; turn "
            f"it about {LEAST_TURN_RAD:g} rad or more about two different ones"
        )


def _parts(poses: np.ndarray | list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [rotation(pose).as_matrix() for pose in poses], [pose[:3] for pose in poses]


def _vector(pose: np.ndarray) -> np.ndarray:
    return np.concatenate([pose[:3], rotation(pose).as_rotvec()])


def _pose(vector: np.ndarray) -> np.ndarray:
    return make_pose(vector[:3], Rotation.from_rotvec(vector[3:]))


def _misfit(vector: np.ndarray, ee: np.ndarray, cube: np.ndarray) -> np.ndarray:
    """[n, 6]: weighted metres, radians, of the cube seen by the camera in the cube that the arm carries."""
    base_camera, ee_cube = _pose(vector[:6]), _pose(vector[6:])
    apart = [
        _vector(compose(inverse(compose(arm, ee_cube)), compose(base_camera, seen)))
        for arm, seen in zip(ee, cube, strict=True)
    ]
    return np.array(apart) * [*[RADIANS_PER_METRE] * 3, 1.0, 1.0, 1.0]


def turned_around(
    q_arm: np.ndarray, count: int, rng: np.random.Generator, *, turn_rad: float = 0.45, reach_m: float = 0.05
) -> list[np.ndarray]:
    """Joints [7] rad of poses around where the arm is, turned every way: what hand-eye calibration needs."""
    home, lower, upper = arm_ik.forward(q_arm), SPEC.lower[:ARM_DOF] + 0.05, SPEC.upper[:ARM_DOF] - 0.05
    targets: list[np.ndarray] = []
    for _ in range(20 * count):
        direction = rng.normal(size=3)
        turn = Rotation.from_rotvec(turn_rad * rng.uniform(0.5, 1.0) * direction / np.linalg.norm(direction))
        pose = make_pose(home[:3] + rng.uniform(-reach_m, reach_m, 3), rotation(home) * turn)
        found = arm_ik.solve(pose, q_arm, posture=q_arm)
        inside = (found.q_arm > lower).all() and (found.q_arm < upper).all()
        if inside and found.position_error < 1e-3 and found.rotation_error < 0.01:
            targets.append(found.q_arm)
        if len(targets) == count:
            return targets
    raise ValueError(f"only {len(targets)} of {count} poses around the arm can be reached; begin in mid-range")


def visit(
    arm: Arm, tracker: Tracker, target: np.ndarray, speed: float, *, samples: int = 10, patience_s: float = 3.0
) -> tuple[np.ndarray, np.ndarray] | None:
    """Moves the arm at `speed` rad/s to `target` [7] rad, and looks: pose_base_ee and pose_camera_cube, [7] each.

    None where the cube is not seen `samples` times within `patience_s` of the arm's coming to rest. Raises DeviceError.
    """
    begin = _latest(arm).q
    steps = max(1, round(float(np.abs(target - begin).max()) / (speed * arm.period_s)))
    for step in range(1, steps + 1):
        arm.command(begin + (target - begin) * step / steps, time.monotonic() + arm.period_s, 0)
        time.sleep(arm.period_s)
    time.sleep(SETTLE_S)
    seen: list[np.ndarray] = []
    last, end = 0, time.monotonic() + patience_s
    while len(seen) < samples and time.monotonic() < end:
        reading = tracker.read()
        if reading is not None and reading.valid and reading.seq != last:
            last = reading.seq
            seen.append(reading.value)
        time.sleep(0.2 * tracker.period_s)
    if len(seen) < samples:
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
