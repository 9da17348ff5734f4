"""The cube tracker on rendered images: accuracy, gates against flips, loss and return, and the driver on a camera."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dexhil.robots.poses import IDENTITY, compose, make_pose
from hardware.devices.base import DeviceError
from hardware.drivers.aruco_cube import ArucoCube
from hardware.emulators import cube as drawn
from hardware.teleop import cube
from hardware.teleop.calibration import load_intrinsics, save_intrinsics
from hardware.teleop.cube_tracking import JUMPS, CubeTracker, Tracked, turned
from hardware.teleop.pose_filter import JointFilter, PoseFilter
from tests.hardware.emulators.cube_camera import CubeCamera
from tests.hardware.support import wait_for

SCENE = drawn.camera()
RNG = np.random.default_rng(0)
BACKGROUND = drawn.clutter(SCENE, RNG)
INTRINSICS = cube.Intrinsics(SCENE.matrix, np.zeros(5))
LEANING = Rotation.from_euler("xyz", [-np.pi / 2 - 0.5, 0.1, 0.0]) * Rotation.from_euler("z", 0.6)
FLAT = Rotation.from_euler("x", np.pi / 2) * Rotation.from_euler("z", np.pi / 2)  # one face, straight to the camera


def at(distance: float, turn: Rotation = LEANING, side: float = 0.02) -> np.ndarray:
    return make_pose(np.array([side, -0.01, distance]), turn)


def picture(pose: np.ndarray) -> np.ndarray:
    return drawn.render(pose, SCENE, BACKGROUND, RNG)


def test_the_joint_filter_calms_each_joint_and_hardly_lags() -> None:
    rng, calm = np.random.default_rng(1), JointFilter()
    noisy = rng.normal(0, 0.005, (300, 2))
    assert np.std([calm(q, k / 90) for k, q in enumerate(noisy)][90:]) < 0.5 * np.std(noisy)
    moving, lag = JointFilter(), 0.0
    for k in range(180):
        q = np.array([2.0 * k / 90, 0.0])
        found = moving(q, k / 90)
        lag = (q - found)[0] / 2.0
        assert found[1] == 0.0
    assert lag < 0.02, "s behind a finger at 2 rad/s"


def test_the_joint_filter_follows_either_way_alike_and_each_joint_by_its_own_speed() -> None:
    up, down, alone = JointFilter(), JointFilter(), JointFilter()
    for k in range(90):
        ramp, slow = 2.0 * k / 90, 0.05 * k / 90
        rising, falling = up(np.array([ramp, slow]), k / 90), down(np.array([-ramp, -slow]), k / 90)
        np.testing.assert_allclose(falling, -rising, atol=1e-12)
        assert alone(np.array([slow]), k / 90)[0] == pytest.approx(rising[1], abs=1e-12)


@pytest.mark.parametrize("gap_s", [0.0, -0.1, 0.6])
def test_the_joint_filter_begins_anew_after_a_gap_and_forgets_the_speed(gap_s: float) -> None:
    used, fresh = JointFilter(), JointFilter()
    for k in range(45):
        used(np.array([2.0 * k / 90]), k / 90)
    begin = 44 / 90 + gap_s
    for k, joint in enumerate((0.3, 0.31, 0.315)):
        assert used(np.array([joint]), begin + k / 90)[0] == pytest.approx(fresh(np.array([joint]), 1.0 + k / 90)[0])


@pytest.fixture
def tracker() -> CubeTracker:
    return CubeTracker(INTRINSICS)


def follow(tracker: CubeTracker, poses: list[np.ndarray], begin: float = 0.0) -> list[Tracked]:
    return [tracker(picture(pose), begin + frame / 30) for frame, pose in enumerate(poses)]


def pose_of(tracked: Tracked) -> np.ndarray:
    assert tracked.pose_camera_cube is not None, tracked.fault
    return tracked.pose_camera_cube


@pytest.mark.parametrize(("distance", "goal_mm"), [(0.3, 0.5), (0.5, 1.0), (0.8, 3.0)])
def test_the_pose_is_right_within_the_goal(tracker: CubeTracker, distance: float, goal_mm: float) -> None:
    poses = [at(distance, Rotation.from_rotvec([0, 0.02 * k, 0]) * LEANING, 0.004 * k) for k in range(6)]
    seen = [pose_of(tracked) for tracked in follow(tracker, poses)]
    errors = [1e3 * np.linalg.norm(s[:3] - p[:3]) for s, p in zip(seen, poses, strict=True)]
    assert np.median(errors) < goal_mm
    assert max(turned(s, p) for s, p in zip(seen, poses, strict=True)) < np.radians(1.0)


def test_the_model_is_the_cube_that_is_drawn() -> None:
    for face, corners in enumerate(cube.marker_corners(drawn.SIDE_M, drawn.SIDE_M)):
        np.testing.assert_allclose(corners, 0.5 * drawn.SIDE_M * np.array(drawn.FACES[face]), atol=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_corners_are_found_to_a_tenth_of_a_pixel_whatever_the_cameras_gamma(gamma: float) -> None:
    pose, scene = at(0.5), dataclasses.replace(SCENE, gamma=gamma)
    image = drawn.render(pose, scene, BACKGROUND, RNG)
    found = cube.find_markers(image, cube.detector())
    refined = cube.refine_corners(image, np.stack(list(found.values())), gamma)
    for face, corners in zip(found, refined, strict=True):
        points = LEANING.apply(cube.marker_corners()[face]) + pose[:3]
        true = (points @ SCENE.matrix.T)[:, :2] / points[:, 2:]
        assert np.abs(corners - true).max() < 0.25
        assert np.abs((corners - true).mean(axis=0)).max() < 0.1


def test_lens_distortion_is_taken_out(tracker: CubeTracker) -> None:
    bent = np.array([0.08, -0.15, 0.001, -0.001, 0.05])
    sharp = picture(at(0.4, side=0.08))
    where = np.stack(np.meshgrid(np.arange(1280.0), np.arange(720.0)), axis=-1).reshape(-1, 1, 2)
    ideal = cv2.undistortPoints(where, SCENE.matrix, bent, P=SCENE.matrix).reshape(720, 1280, 2).astype(np.float32)
    image = cv2.remap(sharp, ideal[..., 0], ideal[..., 1], cv2.INTER_LINEAR)
    seen = pose_of(CubeTracker(cube.Intrinsics(SCENE.matrix, bent))(image, 0.0))
    assert np.linalg.norm(seen[:3] - at(0.4, side=0.08)[:3]) < 1e-3
    assert np.linalg.norm(pose_of(tracker(image, 0.0))[:3] - seen[:3]) > 1e-3


def test_a_single_marker_is_not_believed_without_a_history_nor_when_it_may_lean_either_way(
    tracker: CubeTracker,
) -> None:
    assert drawn.visible_faces(at(0.8, FLAT, 0.0)) != []
    first = tracker(picture(at(0.8, FLAT, 0.0)), 0.0)
    assert first.pose_camera_cube is None
    assert "a single marker in sight" in first.fault
    turns = Rotation.from_rotvec(np.linspace(0, 1, 13)[:, None] * (FLAT * LEANING.inv()).as_rotvec())
    tracked = follow(tracker, [at(0.8, turn * LEANING, 0.0) for turn in turns], 1.0)
    assert "may lean either way" in tracked[-1].fault
    believed = [(t, turn) for t, turn in zip(tracked, turns, strict=True) if t.pose_camera_cube is not None]
    assert len(believed) > 3
    assert max(turned(pose_of(t), at(0.8, turn * LEANING)) for t, turn in believed) < np.radians(3.0)


def test_a_jump_is_refused_until_it_stays(tracker: CubeTracker) -> None:
    follow(tracker, [at(0.5, side=-0.2)] * 3)
    jumped = follow(tracker, [at(0.5, side=0.25)] * JUMPS, 3 / 30)
    assert [tracked.fault for tracked in jumped[: JUMPS - 1]] == ["the cube jumped"] * (JUMPS - 1)
    assert np.linalg.norm(pose_of(jumped[-1])[:3] - at(0.5, side=0.25)[:3]) < 1e-3


def test_a_lost_cube_is_said_and_found_again_elsewhere(tracker: CubeTracker) -> None:
    follow(tracker, [at(0.5)])
    assert tracker(BACKGROUND, 1 / 30).fault == "no marker of the cube in sight"
    assert np.linalg.norm(pose_of(tracker(picture(at(0.7, side=-0.2)), 1.0))[:3] - at(0.7, side=-0.2)[:3]) < 3e-3


def test_markers_of_another_cube_do_not_fit() -> None:
    tracked = CubeTracker(INTRINSICS, cube_m=0.12)(picture(at(0.4)), 0.0)
    assert tracked.pose_camera_cube is None
    assert re.search("do not fit the cube: .* px; check size and calibration", tracked.fault)


def test_intrinsics_of_another_image_size_are_refused_at_the_first_frame(tmp_path: Path) -> None:
    file, camera = tmp_path / "camera.json", CubeCamera(lambda _: at(0.4))
    message = (
        f"intrinsics for images of 800 x 600, the camera gives {camera.scene.width} x {camera.scene.height}; record"
    )
    save_intrinsics(INTRINSICS, file, width=800, height=600)
    with pytest.raises(DeviceError, match=rf"tracker: .*camera\.json: {message}"):
        ArucoCube(camera=camera, intrinsics=file).connect()
    with pytest.raises(ValueError, match="images of 800 x 600, the camera gives 1280 x 720"):
        CubeTracker(load_intrinsics(file))(picture(at(0.4)), 0.0)


def test_the_filter_calms_a_hand_at_rest_and_hardly_lags_behind_one_that_moves() -> None:
    rng, still = np.random.default_rng(1), PoseFilter()
    noisy = [make_pose(rng.normal(0, 2e-4, 3), Rotation.from_rotvec(rng.normal(0, 1e-3, 3))) for _ in range(200)]
    calm = [still(pose, frame / 30) for frame, pose in enumerate(noisy)]
    assert np.std(calm[30:], axis=0)[:3].max() < 0.6 * np.std(noisy, axis=0)[:3].max()
    moving, lag = PoseFilter(), 0.0
    for frame in range(60):
        true = make_pose(np.array([0.3 * frame / 30, 0, 0.5]), Rotation.from_rotvec([0, 1.0 * frame / 30, 0]))
        lag = np.linalg.norm(moving(true, frame / 30)[:3] - true[:3]) / 0.3
    assert lag < 0.02, "s behind a hand at 0.3 m/s"
    far = compose(make_pose(np.array([1.0, 0, 0]), Rotation.identity()), IDENTITY)
    np.testing.assert_array_equal(moving(far, 10.0), far)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[[CubeCamera], ArucoCube]]:
    opened: list[ArucoCube] = []

    def connect(camera: CubeCamera) -> ArucoCube:
        matrix = camera.scene.matrix
        size = {"width": camera.scene.width, "height": camera.scene.height}
        save_intrinsics(cube.Intrinsics(matrix, np.zeros(5)), tmp_path / "camera.json", **size)
        opened.append(ArucoCube(camera=camera, intrinsics=tmp_path / "camera.json"))
        opened[-1].connect()
        return opened[-1]

    yield connect
    for device in opened:
        device.stop()


def is_valid(device: ArucoCube) -> bool:
    reading = device.read()
    return reading is not None and reading.valid


def test_the_driver_tracks_says_when_the_cube_is_lost_and_when_the_camera_is(
    driver: Callable[[CubeCamera], ArucoCube],
) -> None:
    shown: list[np.ndarray | None] = [at(0.4)]
    camera = CubeCamera(lambda _: shown[0])
    device = driver(camera)
    wait_for(lambda: is_valid(device))
    reading = device.read()
    assert reading is not None
    assert np.linalg.norm(reading.value[:3] - at(0.4)[:3]) < 2e-3
    shown[0] = None
    wait_for(lambda: "no marker of the cube in sight; hold the cube in sight of camera" in device.health().message)
    assert not is_valid(device)
    shown[0] = at(0.4)
    wait_for(lambda: is_valid(device))
    camera.frozen = True
    wait_for(lambda: "tracker: silent for" in device.health().message)
    assert not is_valid(device)
    camera.frozen = False
    wait_for(lambda: is_valid(device))
