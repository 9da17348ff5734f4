"""The handheld cube as a tracker: frames of a camera in, its pose in the camera's frame out."""

import time
from pathlib import Path

import numpy as np

from hardware.devices.base import Camera, DeviceError
from hardware.devices.streams import Sample, Stream

WAIT_S = 0.002


class ArucoCube(Stream[np.ndarray]):
    """pose_camera_cube [7]: x right, y down, z into the image. Not valid while the cube is out of sight or in doubt.

    Args:
        camera: of which the frames come; it is connected and stopped with this.
        intrinsics: file of `hardware/calibrate.py camera`.
        cube_m: edge of the cube.
        marker_m: edge of the markers' black squares.
        gamma: of the camera.
    """

    def __init__(
        self, *, camera: Camera, intrinsics: str | Path, name: str = "tracker", cube_m: float = 0.060,
        marker_m: float = 0.046, gamma: float = 2.2, silent_s: float = 0.2, connect_s: float = 10.0,
    ) -> None:  # fmt: skip
        super().__init__(
            name, camera.period_s, silent_s=silent_s, connect_s=connect_s,
            remedy=f"hold the cube in sight of {camera.name}, two faces at least, in even light",
        )  # fmt: skip
        self._camera, self._intrinsics = camera, Path(intrinsics)
        self._sizes = {"cube_m": cube_m, "marker_m": marker_m, "gamma": gamma}
        self._seq = 0

    def _open(self) -> None:
        cv2 = self._load("cv2", "opencv-contrib-python-headless")
        from hardware.teleop.calibration import load_intrinsics
        from hardware.teleop.cube_tracking import CubeTracker
        from hardware.teleop.pose_filter import PoseFilter

        cv2.setNumThreads(1)  # the images are small: more threads cost other loops their core
        self._tracker = CubeTracker(load_intrinsics(self._intrinsics), **self._sizes)
        self._filter = PoseFilter()
        self._camera.connect()

    def _close(self) -> None:
        self._camera.stop()

    def _poll(self) -> Sample[np.ndarray] | None:
        import cv2

        frame = self._camera.read()
        if frame is None or frame.seq == self._seq:
            time.sleep(WAIT_S)
            return None
        self._seq = frame.seq
        if not frame.valid:
            return Sample(None, frame.t_device, self._camera.health().message or f"{self._camera.name} is not valid")
        gray = frame.value if frame.value.ndim == 2 else cv2.cvtColor(frame.value, cv2.COLOR_RGB2GRAY)
        try:
            seen = self._tracker(gray, frame.t_device)
        except ValueError as error:  # images of another size than the intrinsics'
            raise DeviceError(f"{self.name}: {self._intrinsics}: {error}") from None
        if seen.pose_camera_cube is None:
            return Sample(np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]), frame.t_device, seen.fault)
        return Sample(self._filter(seen.pose_camera_cube, frame.t_device), frame.t_device)
