"""The calibration command from sheet to result: printed faces, a recording's intrinsics, an arm that visits poses."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from dexhil.robots import arm_ik
from dexhil.robots.poses import compose, inverse, make_pose
from dexhil.robots.spec import FR3_DEXHAND021
from hardware import calibrate
from hardware.devices.base import ArmState, Health, Stamped
from hardware.teleop import calibration
from hardware.teleop.calibration import load_intrinsics, turned_around
from hardware.teleop.cube import detector

HOME = FR3_DEXHAND021.home[:7].astype(float)
BASE_CAMERA = make_pose(np.array([1.2, 0.1, 0.6]), Rotation.from_euler("xyz", [-2.0, 0.1, 1.4]))
EE_CUBE = make_pose(np.array([0.0, 0.02, 0.05]), Rotation.from_euler("xyz", [0.3, 0.1, -0.4]))


class Cell:
    """An arm that is where it was told at once, and a tracker of the cube that it carries; lost: poses not seen."""

    name, period_s = "cell", 1e-3

    def __init__(self, lost: set[int] | None = None) -> None:
        self.q, self.reads, self.lost, self.visited = HOME.copy(), 0, lost or set(), -1
        self.fastest = 0.0

    def connect(self) -> None: ...

    def stop(self) -> None: ...

    def health(self) -> Health:
        return Health(True)

    def command(self, target: np.ndarray, t_execute: float, epoch: int) -> np.ndarray:
        self.fastest = max(self.fastest, float(np.abs(target - self.q).max()) / self.period_s)
        self.q = np.array(target)
        return self.q

    def _stamped(self, value):
        self.reads += 1
        return Stamped(value, time.monotonic(), time.monotonic(), self.reads)


class CellArm(Cell):
    joint_names = FR3_DEXHAND021.joint_names[:7]

    def read(self) -> Stamped[ArmState]:
        return self._stamped(ArmState(self.q, np.zeros(7), arm_ik.forward(self.q)))


class CellTracker(Cell):
    def __init__(self, arm: CellArm) -> None:
        super().__init__()
        self.arm = arm

    def read(self) -> Stamped[np.ndarray]:
        return self._stamped(compose(inverse(BASE_CAMERA), compose(arm_ik.forward(self.arm.q), EE_CUBE)))


def test_the_printed_sheet_has_the_five_markers_in_their_size(tmp_path: Path) -> None:
    calibrate.main(["sheet", f"--out={tmp_path / 'cube.png'}"])
    with Image.open(tmp_path / "cube.png") as page:
        assert page.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        pixels = np.asarray(page)
    small = cv2.resize(pixels, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    corners, numbers, _ = detector().detectMarkers(small)
    assert sorted(np.ravel(numbers).tolist()) == [0, 1, 2, 3, 4]
    sides = [np.linalg.norm(quad.reshape(4, 2)[0] - quad.reshape(4, 2)[1]) / 0.4 / 300 * 25.4 for quad in corners]
    np.testing.assert_allclose(sides, 46.0, atol=0.4)
    calibrate.main(["sheet", f"--out={tmp_path / 'cube.pdf'}"])
    assert (tmp_path / "cube.pdf").read_bytes().startswith(b"%PDF")


def test_a_cell_is_calibrated_from_what_its_arm_visited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration, "SETTLE_S", 0.0)
    arm = CellArm()
    pairs = calibrate.record_pairs(arm, CellTracker(arm), 6, np.random.default_rng(0), speed=20.0)
    np.testing.assert_allclose(arm.q, HOME, atol=1e-9)
    assert arm.fastest < 21.0, "rad/s"
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    calibrate.main(["hand-eye", f"--pairs={tmp_path / 'pairs.json'}", f"--out={tmp_path / 'cell/hand_eye.json'}"])
    facts = json.loads((tmp_path / "cell/hand_eye.json").read_text())
    np.testing.assert_allclose(facts["cube_to_ee"][:3], inverse(EE_CUBE)[:3], atol=1e-6)
    np.testing.assert_allclose(facts["pose_base_camera"][:3], BASE_CAMERA[:3], atol=1e-6)
    assert "7 poses, misfit 0.00 mm" in capsys.readouterr().out


def test_poses_around_the_arm_turn_enough_and_stay_near() -> None:
    targets = turned_around(HOME, 10, np.random.default_rng(0))
    home = arm_ik.forward(HOME)
    for q in targets:
        assert np.abs(arm_ik.forward(q)[:3] - home[:3]).max() < 0.06
    with pytest.raises(ValueError, match="only 0 of 3 poses around the arm can be reached"):
        turned_around(FR3_DEXHAND021.upper[:7].astype(float), 3, np.random.default_rng(0))


def test_a_file_that_holds_no_pairs_is_named(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text("{}")
    with pytest.raises(ValueError, match=r".*pairs\.json: expected a file of `record`: KeyError"):
        calibrate.main(["hand-eye", f"--pairs={tmp_path / 'pairs.json'}", f"--out={tmp_path / 'out.json'}"])


def test_intrinsics_of_a_recording(tmp_path: Path) -> None:
    pytest.importorskip("pyrealsense2", exc_type=ImportError, reason="pyrealsense2 cannot be loaded: make setup")
    from hardware.emulators.realsense import record

    rng = np.random.default_rng(0)
    record(tmp_path / "camera.db3", [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(20)])
    arguments = [f"--file={tmp_path / 'camera.db3'}", "--size", "64", "48", f"--out={tmp_path / 'camera.json'}"]
    calibrate.main(["camera", *arguments])
    np.testing.assert_allclose(load_intrinsics(tmp_path / "camera.json").matrix[0], [600, 0, 32])
