"""Intel RealSense cameras through pyrealsense2: the colour picture of a live camera, or of a recorded file."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from dexhil.frozen import FrozenSignal
from hardware.devices.base import DeviceError
from hardware.devices.streams import Sample, Stream

WAIT_MS = 200
GONE_S = 2.0  # without a frame for so long the camera is opened anew: it may have been plugged in again
DRIFT = 1e-4  # s per s that two clocks may run apart
SAME = 15  # frames with the very same pixels: no sensor is free of noise


@dataclasses.dataclass
class DeviceClock:
    """A camera's clock on this machine's, by the fastest delivery seen; one that runs backwards started anew."""

    _offset: float = float("inf")
    _last: float = 0.0

    def to_monotonic(self, device_s: float, received_s: float) -> float:
        """When the device measured what it stamped `device_s` and what arrived at `received_s`."""
        gap = received_s - device_s
        elapsed, self._last = device_s - self._last, device_s
        if elapsed < 0.0:
            self._offset = gap
        self._offset = min(self._offset + DRIFT * max(elapsed, 0.0), gap)
        return device_s + self._offset


class RealSense(Stream[np.ndarray]):
    """uint8 [H, W, 3] RGB.

    Args:
        serial: of the camera, None takes the only one.
        file: a recording (.db3) to play instead, in real time, over and over.
        exposure_us: fixed, which keeps moving markers sharp; None leaves it to the camera.
    """

    def __init__(
        self, *, serial: str | None = None, file: str | Path | None = None, name: str = "camera", width: int = 640,
        height: int = 480, fps: int = 30, exposure_us: int | None = None, silent_s: float = 0.3,
        connect_s: float = 10.0,
    ) -> None:  # fmt: skip
        source = f"the recording {file}" if file else f"camera {serial or '(the only one)'}"
        super().__init__(
            name, 1.0 / fps, silent_s=silent_s, connect_s=connect_s,
            remedy=f"check the USB 3 cable and port of {source}, its serial, and {width} x {height} at {fps} Hz",
        )  # fmt: skip
        self._serial, self._file = serial, Path(file) if file else None
        self._format = width, height, fps
        self._exposure = exposure_us
        self._pipeline: Any = None
        self._profile: Any = None

    def _open(self) -> None:
        rs = self._rs = self._load("pyrealsense2", "pyrealsense2")
        if self._file is not None and not self._file.is_file():
            raise DeviceError(self._message(f"no file {self._file}"))
        config = rs.config()
        if self._file is not None:
            config.enable_device_from_file(str(self._file), repeat_playback=True)
        else:
            config.enable_device(self._choose())
        width, height, fps = self._format
        config.enable_stream(rs.stream.color, width, height, rs.format.rgb8, fps)
        pipeline = rs.pipeline()
        self._profile = pipeline.start(config)
        self._pipeline = pipeline
        self._set_options(rs.option)
        self._clock, self._framed = DeviceClock(), time.monotonic()
        self._frozen = FrozenSignal(SAME, "picture")

    def _choose(self) -> str:
        serial = self._rs.camera_info.serial_number
        there = [device.get_info(serial) for device in self._rs.context().query_devices()]
        wanted = self._serial or (there[0] if len(there) == 1 else "")
        if wanted not in there:
            raise DeviceError(self._message(f"cameras that are plugged in: {', '.join(there) or 'none'}"))
        return wanted

    def _set_options(self, option: Any) -> None:
        for sensor in self._profile.get_device().query_sensors():
            if sensor.supports(option.global_time_enabled):
                sensor.set_option(option.global_time_enabled, 1)
            if self._exposure is not None and sensor.supports(option.exposure) and sensor.is_color_sensor():
                sensor.set_option(option.exposure, self._exposure)

    def _close(self) -> None:
        pipeline, self._pipeline, self._profile = self._pipeline, None, None
        if pipeline is not None:
            pipeline.stop()

    def _poll(self) -> Sample[np.ndarray] | None:
        there, frames = self._pipeline.try_wait_for_frames(WAIT_MS)
        now = time.monotonic()
        frame = frames.get_color_frame() if there else None
        if not frame:
            if now - self._framed > GONE_S:
                raise DeviceError(self._message(f"no frame for {GONE_S:g} s"))
            return None
        self._framed = now
        picture = np.array(frame.get_data())
        fault = self._frozen(picture[::16, ::16])
        return Sample(picture, self._clock.to_monotonic(1e-3 * frame.get_timestamp(), now), fault)

    def intrinsics(self) -> tuple[np.ndarray, np.ndarray]:
        """The factory's matrix [3, 3] px and distortion [5] (OpenCV's order) of the connected camera."""
        if self._profile is None:
            raise DeviceError(self._message("not connected"))
        found = self._profile.get_stream(self._rs.stream.color).as_video_stream_profile().get_intrinsics()
        matrix = np.array([[found.fx, 0.0, found.ppx], [0.0, found.fy, found.ppy], [0.0, 0.0, 1.0]])
        return matrix, np.array(found.coeffs, np.float64)
