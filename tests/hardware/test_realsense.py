"""The RealSense driver on a recording that the real pipeline plays, paused, gone and back; and clocks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hardware.devices.base import DeviceError
from hardware.drivers.realsense import DeviceClock, RealSense
from hardware.emulators.realsense import record
from tests.hardware.support import wait_for

pytest.importorskip("pyrealsense2", exc_type=ImportError, reason="pyrealsense2 cannot be loaded: make setup")


def pictures(count: int, noise: float = 3.0) -> list[np.ndarray]:
    """Red everywhere, green that tells the number of the picture in its middle, noise elsewhere."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        picture = np.clip(rng.normal(100, noise, (240, 320, 3)), 0, 255).astype(np.uint8)
        picture[..., 0] = 255
        picture[100:140, 140:180, 1] = 5 * number
        made.append(picture)
    return made


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("realsense") / "camera.db3"
    record(path, pictures(40))
    return path


@pytest.fixture
def camera(recording: Path) -> Iterator[RealSense]:
    camera = RealSense(file=recording, width=320, height=240)
    camera.connect()
    yield camera
    camera.stop()


def is_valid(camera: RealSense) -> bool:
    reading = camera.read()
    return reading is not None and reading.valid


def test_pictures_arrive_as_recorded_in_rgb_and_in_order(camera: RealSense) -> None:
    numbers: list[int] = []

    def gather() -> bool:
        reading = camera.read()
        assert reading is not None
        assert reading.value.shape == (240, 320, 3)
        assert reading.value.dtype == np.uint8
        assert (reading.value[..., 0] == 255).all()
        number = int(reading.value[120, 160, 1]) // 5
        if not numbers or numbers[-1] != number:
            numbers.append(number)
        return len(numbers) >= 5

    wait_for(gather)
    steps = np.diff(numbers)
    assert ((steps > 0) | (steps < -20)).all(), "it plays on, and begins again at its end"
    reading = camera.read()
    assert reading is not None
    assert reading.t_device <= reading.t_received <= time.monotonic()
    assert camera.health().ok


def test_a_frozen_camera_is_silent_and_works_again(camera: RealSense) -> None:
    playback = camera._profile.get_device().as_playback()
    playback.pause()
    wait_for(lambda: not is_valid(camera))
    assert "camera: silent for" in camera.health().message
    assert "check the USB 3 cable" in camera.health().message
    playback.resume()
    wait_for(lambda: is_valid(camera))


def test_a_camera_that_is_gone_is_opened_anew(camera: RealSense) -> None:
    camera._profile.get_device().as_playback().pause()
    wait_for(lambda: "no frame for 2 s" in camera.health().message)
    wait_for(lambda: is_valid(camera))
    assert camera.health().ok


def test_the_same_picture_again_and_again_is_frozen(tmp_path: Path) -> None:
    record(tmp_path / "still.db3", pictures(1) * 40)
    camera = RealSense(file=tmp_path / "still.db3", width=320, height=240)
    camera.connect()
    wait_for(lambda: "camera: frozen: the same picture 15 times" in camera.health().message)
    assert not is_valid(camera)
    camera.stop()


def test_intrinsics_are_those_of_the_device(camera: RealSense) -> None:
    matrix, distortion = camera.intrinsics()
    np.testing.assert_allclose(matrix, [[600, 0, 160], [0, 600, 120], [0, 0, 1]])
    np.testing.assert_array_equal(distortion, np.zeros(5))


def test_no_camera_and_no_file_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"camera: .*plugged in: none; check the USB 3 cable and port of camera 123"):
        RealSense(serial="123").connect()
    with pytest.raises(DeviceError, match=r"camera: no file .*none\.db3; check"):
        RealSense(file=tmp_path / "none.db3").connect()


def test_a_devices_clock_is_mapped_by_its_fastest_delivery_and_survives_a_jump() -> None:
    clock, rng = DeviceClock(), np.random.default_rng(0)
    measured = mapped = 0.0
    for frame in range(200):
        measured = 50.0 + frame / 30
        mapped = clock.to_monotonic(1e9 + measured, measured + 0.004 + float(rng.exponential(0.01)))
    assert mapped == pytest.approx(measured + 0.004, abs=2e-3)
    assert clock.to_monotonic(5.0, 60.0) == pytest.approx(60.0)
    assert clock.to_monotonic(5.1, 60.2) == pytest.approx(60.1, abs=1e-3)


@pytest.mark.parametrize("late_s", [0.3, 0.9, 3.0, 60.0])
def test_what_arrives_late_is_old_however_late(late_s: float) -> None:
    clock = DeviceClock()
    for frame in range(30):
        clock.to_monotonic(500.0 + frame / 30, 1000.0 + frame / 30)
    for frame in range(30, 60):
        arrived = 1000.0 + frame / 30 + late_s
        assert arrived - clock.to_monotonic(500.0 + frame / 30, arrived) == pytest.approx(late_s, abs=1e-3)


def test_a_device_whose_clock_runs_slow_does_not_grow_old() -> None:
    clock = DeviceClock()
    for t in np.arange(0.0, 20_000.0, 10.0):
        assert clock.to_monotonic(t * (1.0 - 5e-5), t) == pytest.approx(t, abs=0.01)
