"""Webcams, and video files for trying the stack, through OpenCV. Frames are stamped when they arrive."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from dexhil.frozen import FrozenSignal
from hardware.devices.base import DeviceError
from hardware.devices.streams import Sample, Stream

GONE = 10  # reads that fail one after the other: the camera is opened anew
SAME = 15  # frames with the very same pixels: no sensor is free of noise


class OpenCvCamera(Stream[np.ndarray]):
    """uint8 [H, W, 3] RGB. source: number of the webcam, or a video file, which plays at `fps` over and over."""

    def __init__(
        self, *, source: int | str, name: str = "camera", width: int = 640, height: int = 480, fps: int = 30,
        silent_s: float = 0.3, connect_s: float = 10.0,
    ) -> None:  # fmt: skip
        super().__init__(
            name, 1.0 / fps, silent_s=silent_s, connect_s=connect_s,
            remedy=f"check that {source} exists, is not in use, and gives {width} x {height}",
        )  # fmt: skip
        self._source, self._size, self._file = source, (width, height), isinstance(source, str)
        self._capture: Any = None

    def _open(self) -> None:
        cv2 = self._load("cv2", "opencv-contrib-python-headless")
        if self._file and not Path(str(self._source)).is_file():
            raise DeviceError(self._message(f"no file {self._source}"))
        self._capture = cv2.VideoCapture(self._source)
        if not self._capture.isOpened():
            raise DeviceError(self._message(f"{self._source} cannot be opened"))
        if not self._file:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not one that waited
        self._failed = 0
        self._frozen = FrozenSignal(SAME, "picture")

    def _close(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def _poll(self) -> Sample[np.ndarray] | None:
        import cv2

        if self._file:
            self._wait_period()
        there, frame = self._capture.read()
        if not there:
            self._failed += 1
            if self._failed >= GONE:
                raise DeviceError(self._message(f"{GONE} reads failed"))
            if self._file:
                self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            return None
        self._failed = 0
        if (frame.shape[1], frame.shape[0]) != self._size:
            raise DeviceError(self._message(f"gives {frame.shape[1]} x {frame.shape[0]}"))
        fault = self._frozen(frame[::16, ::16])
        return Sample(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), time.monotonic(), fault)
