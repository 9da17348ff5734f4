"""Calibration against made-up cells whose constants are known, with a person's noise, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dexhil.robots.poses import compose, inverse, make_pose, rotation
from hardware.teleop.calibration import HandEye, load_intrinsics, save_intrinsics, solve_hand_eye
from hardware.teleop.cube import Intrinsics

BASE_CAMERA = make_pose(np.array([1.1, -0.4, 0.7]), Rotation.from_euler("xyz", [-2.0, 0.3, 0.4]))
EE_CUBE = make_pose(np.array([0.01, -0.03, 0.09]), Rotation.from_euler("xyz", [0.1, -0.2, 1.7]))


def arm_poses(rng: np.random.Generator, count: int, turn: float = 0.5) -> np.ndarray:
    turns = [Rotation.from_rotvec(rng.normal(0, turn, 3)) for _ in range(count)]
    return np.stack([make_pose(rng.uniform([0.3, -0.2, 0.2], [0.6, 0.2, 0.5]), t) for t in turns])


def seen_by(base_ee: np.ndarray, rng: np.random.Generator, noise_m: float = 0.0, noise_rad: float = 0.0) -> np.ndarray:
    def noisy(pose: np.ndarray) -> np.ndarray:
        turn = Rotation.from_rotvec(rng.normal(0, noise_rad, 3) if noise_rad else np.zeros(3))
        return make_pose(pose[:3] + (rng.normal(0, noise_m, 3) if noise_m else 0.0), turn * rotation(pose))

    return np.stack([noisy(compose(inverse(BASE_CAMERA), compose(pose, EE_CUBE))) for pose in base_ee])


def errors(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """mm, degrees"""
    apart = (rotation(found).inv() * rotation(true)).magnitude()
    return 1e3 * float(np.linalg.norm(found[:3] - true[:3])), float(np.degrees(apart))


def test_both_constants_are_found_exactly_without_noise() -> None:
    rng = np.random.default_rng(0)
    ee = arm_poses(rng, 6)
    found = solve_hand_eye(ee, seen_by(ee, rng))
    for pose, true in ((found.pose_base_camera, BASE_CAMERA), (found.pose_ee_cube, EE_CUBE)):
        assert max(errors(pose, true)) < 1e-3
    assert max(errors(found.cube_to_ee, inverse(EE_CUBE))) < 1e-3
    assert found.position_mm.max() < 1e-3


def test_with_the_trackers_noise_the_error_is_small_and_the_residual_says_how_large_the_noise_is() -> None:
    rng = np.random.default_rng(1)
    ee = arm_poses(rng, 20)
    found = solve_hand_eye(ee, seen_by(ee, rng, 0.5e-3, np.radians(0.2)))
    millimetres, degrees = errors(found.pose_ee_cube, EE_CUBE)
    assert millimetres < 1.5
    assert degrees < 0.3
    assert 0.3 < np.median(found.position_mm) < 2.0
    assert "20 poses, misfit" in found.report()


def test_one_bad_pair_is_named() -> None:
    rng = np.random.default_rng(2)
    ee = arm_poses(rng, 12)
    cube = seen_by(ee, rng)
    cube[7, :3] += [0.02, 0.0, 0.0]
    assert "worst pose 7" in solve_hand_eye(ee, cube).report()


def test_a_camera_on_the_hand_is_the_same_with_inverse_poses() -> None:
    rng = np.random.default_rng(3)
    ee, ee_camera, base_cube = arm_poses(rng, 8), EE_CUBE, BASE_CAMERA
    cube = np.stack([compose(inverse(compose(pose, ee_camera)), base_cube) for pose in ee])
    found: HandEye = solve_hand_eye(np.stack([inverse(pose) for pose in ee]), cube)
    assert max(errors(found.pose_base_camera, ee_camera)) < 1e-3
    assert max(errors(found.pose_ee_cube, base_cube)) < 1e-3


def test_too_few_and_hardly_turning_poses_are_refused() -> None:
    rng = np.random.default_rng(4)
    ee = arm_poses(rng, 4)
    with pytest.raises(ValueError, match=r"expected 5 pairs of poses \[n, 7\] or more, got \(4, 7\)"):
        solve_hand_eye(ee, seen_by(ee, rng))
    ee = arm_poses(rng, 10, turn=0.02)
    with pytest.raises(ValueError, match=r"turn it about 0\.35 rad or more about two different ones"):
        solve_hand_eye(ee, seen_by(ee, rng))


def test_intrinsics_come_back_from_disk_and_a_broken_file_is_named(tmp_path: Path) -> None:
    camera = Intrinsics(np.array([[920.0, 0, 640], [0, 921, 360], [0, 0, 1]]), np.array([0.1, -0.2, 0.0, 0.0, 0.0]))
    save_intrinsics(camera, tmp_path / "cells/camera.json", width=1280, height=720)
    back = load_intrinsics(tmp_path / "cells/camera.json")
    np.testing.assert_array_equal(back.matrix, camera.matrix)
    np.testing.assert_array_equal(back.distortion, camera.distortion)
    assert back.size == (1280, 720)
    with pytest.raises(ValueError, match=r"none.json: no such file; write .* hardware/calibrate.py camera"):
        load_intrinsics(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"matrix": [[1]]}')
    with pytest.raises(
        ValueError, match=r"bad.json: expected JSON with matrix, distortion, width and height: KeyError"
    ):
        load_intrinsics(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text('{"matrix": [[1]], "distortion": [], "width": 1, "height": 1}')
    with pytest.raises(ValueError, match=r"bad.json: expected a matrix \[3, 3\]"):
        load_intrinsics(tmp_path / "bad.json")
