"""The OpenCV camera on video files: colours, playing over and over, a frozen picture, what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from hardware.devices.base import DeviceError
from hardware.drivers.opencv_camera import OpenCvCamera
from tests.hardware.support import wait_for


def video(path: Path, frames: int, noise: float) -> str:
    """Red, with noise, 64 x 48."""
    rng, writer = np.random.default_rng(0), cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for _ in range(frames):
        bgr = np.clip(np.array([20, 20, 220]) + rng.normal(0, noise, (48, 64, 1)), 0, 255).astype(np.uint8)
        writer.write(bgr)
    writer.release()
    return str(path)


def test_a_video_plays_over_and_over_in_rgb(tmp_path: Path) -> None:
    camera = OpenCvCamera(source=video(tmp_path / "a.avi", 5, 10.0), width=64, height=48, fps=100)
    camera.connect()
    wait_for(lambda: (reading := camera.read()) is not None and reading.seq > 12)
    reading = camera.read()
    assert reading is not None
    assert reading.valid
    assert reading.value.shape == (48, 64, 3)
    np.testing.assert_allclose(reading.value.reshape(-1, 3).mean(axis=0), [220, 20, 20], atol=12)
    camera.stop()


def test_a_frozen_picture_is_said(tmp_path: Path) -> None:
    camera = OpenCvCamera(source=video(tmp_path / "a.avi", 30, 0.0), width=64, height=48, fps=100)
    camera.connect()
    wait_for(lambda: "camera: frozen: the same picture 15 times" in camera.health().message)
    camera.stop()


def test_what_cannot_be_opened_or_has_another_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"camera: no file .*none\.avi; check that"):
        OpenCvCamera(source=str(tmp_path / "none.avi")).connect()
    source = video(tmp_path / "a.avi", 5, 10.0)
    with pytest.raises(DeviceError, match=r"camera: gives 64 x 48; check that .* gives 640 x 480"):
        OpenCvCamera(source=source).connect()
