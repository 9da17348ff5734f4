"""The cube from image to image: searched for once, then followed in a part of the image, with gates against flips.

A pose is believed where two markers or more agree with it, or where a single one has exactly one reading that continues
the motion. What jumps is refused until it has been seen JUMPS times at the same place.
"""

from typing import NamedTuple

import cv2
import numpy as np

from dexhil.robots.poses import rotation
from hardware.teleop import cube

FASTEST, FASTEST_TURN = 2.0, 12.0  # m/s and rad/s that a person moves the cube at
SLACK_M, SLACK_RAD = 0.01, 0.15
CLEAR_RAD = 0.6  # the two readings of a single marker must differ by so much to tell them apart
MEMORY_S = 0.3  # a pose that is older predicts nothing
JUMPS = 5
AROUND = 2.2  # the part that is searched, in sizes of the cube
ROOM_PX = 24


class Tracked(NamedTuple):
    """pose_camera_cube: [7] where believed. fault: why there is none, "" otherwise."""

    pose_camera_cube: np.ndarray | None
    fault: str


class CubeTracker:
    """Call with one grey image after the other, and its time."""

    def __init__(
        self, intrinsics: cube.Intrinsics, *, cube_m: float = cube.CUBE_M, marker_m: float = cube.MARKER_M,
        gamma: float = 2.2,
    ) -> None:  # fmt: skip
        self._intrinsics, self._gamma = intrinsics, gamma
        self._model, self._size = cube.marker_corners(cube_m, marker_m), cube_m
        self._finder = cube.detector()
        self._pose: np.ndarray | None = None
        self._time = -np.inf
        self._part: tuple[slice, slice] | None = None
        self._refused: list[np.ndarray] = []

    def __call__(self, gray: np.ndarray, time_s: float) -> Tracked:
        """The cube in `gray` uint8 [H, W], taken at `time_s`; ValueError for another size than the intrinsics'."""
        self._intrinsics.check_size(gray.shape[1], gray.shape[0])
        found = self._find(gray)
        guess = self._pose if time_s - self._time <= MEMORY_S else None
        sighting = cube.locate(found, self._intrinsics, guess, self._model)
        if sighting is None:
            self._part = None
            return Tracked(None, "no marker of the cube in sight")
        self._part = self._around(sighting.poses[0], gray.shape)
        seen = self._judge(sighting, guess, time_s - self._time)
        if seen.pose_camera_cube is not None:
            self._pose, self._time = seen.pose_camera_cube, time_s
        return seen

    def _find(self, gray: np.ndarray) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        if self._part is not None:
            rows, columns = self._part
            found = cube.find_markers(gray[rows, columns], self._finder, (columns.start, rows.start))
        if not found:
            found = cube.find_markers(gray, self._finder)
        if not found:
            return {}
        corners = cube.refine_corners(gray, np.stack(list(found.values())), self._gamma)
        return {
            face: quad
            for face, quad, coarse in zip(found, corners, found.values(), strict=True)
            if np.isfinite(quad).all() and np.abs(quad - coarse).max() < 4.0
        }

    def _around(self, pose: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
        if pose[2] <= self._size:
            return None
        camera = self._intrinsics
        at, _ = cv2.projectPoints(pose[None, :3], np.zeros(3), np.zeros(3), camera.matrix, camera.distortion)
        reach = 0.5 * AROUND * np.sqrt(2.0) * self._size * camera.matrix[0, 0] / pose[2] + ROOM_PX
        low = np.clip(at.ravel() - reach, 0, [shape[1], shape[0]]).astype(int)
        high = np.clip(at.ravel() + reach, 0, [shape[1], shape[0]]).astype(int)
        return None if (high - low < 16).any() else (slice(low[1], high[1]), slice(low[0], high[0]))

    def _judge(self, sighting: cube.Sighting, guess: np.ndarray | None, elapsed_s: float) -> Tracked:
        if sighting.error_px > cube.WORST_PX:
            fault = f"the markers do not fit the cube: {sighting.error_px:.1f} px; check size and calibration"
            return Tracked(None, fault)
        if sighting.markers == 1:
            return _judge_single(sighting.poses, guess, elapsed_s)
        pose = sighting.poses[0]
        if guess is None or follows(guess, pose, elapsed_s):
            self._refused = []
            return Tracked(pose, "")
        if self._refused and not follows(self._refused[-1], pose, elapsed_s):
            self._refused = []
        self._refused.append(pose)
        if len(self._refused) < JUMPS:
            return Tracked(None, "the cube jumped")
        self._refused = []
        return Tracked(pose, "")


def _judge_single(poses: np.ndarray, guess: np.ndarray | None, elapsed_s: float) -> Tracked:
    if guess is None:
        return Tracked(None, "a single marker in sight: turn the cube so that two are")
    following = [pose for pose in poses if follows(guess, pose, elapsed_s)]
    apart = len(poses) < 2 or turned(poses[0], poses[1]) > CLEAR_RAD
    if len(following) == 1 and apart:
        return Tracked(following[0], "")
    return Tracked(None, "a single marker in sight, which may lean either way: turn the cube so that two are")


def turned(first: np.ndarray, second: np.ndarray) -> float:
    """Angle rad between two poses."""
    return float((rotation(first).inv() * rotation(second)).magnitude())


def follows(before: np.ndarray, after: np.ndarray, elapsed_s: float) -> bool:
    """Whether a hand moves from one pose [7] to the other in `elapsed_s`."""
    near = float(np.linalg.norm(after[:3] - before[:3])) <= SLACK_M + FASTEST * elapsed_s
    return near and turned(before, after) <= SLACK_RAD + FASTEST_TURN * elapsed_s
