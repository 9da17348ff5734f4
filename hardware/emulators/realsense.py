"""A recording as a RealSense makes it, from pictures: librealsense's own software camera, recorded by its recorder."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def record(path: str | Path, pictures: Sequence[np.ndarray], fps: int = 30, focal_px: float = 600.0) -> None:
    """Writes `path` (.db3) from uint8 [H, W, 3] RGB pictures. Some may be missing when it is played: librealsense."""
    import pyrealsense2

    rs: Any = pyrealsense2
    height, width, _ = pictures[0].shape
    stream = rs.video_stream()
    stream.type, stream.fmt, stream.bpp, stream.fps = rs.stream.color, rs.format.rgb8, 3, fps
    stream.width, stream.height = width, height
    lens = rs.intrinsics()
    lens.width, lens.height, lens.fx, lens.fy = width, height, focal_px, focal_px
    lens.ppx, lens.ppy, lens.model, lens.coeffs = width / 2, height / 2, rs.distortion.none, [0.0] * 5
    stream.intrinsics = lens
    device = rs.software_device()
    camera = device.add_sensor("RGB Camera")
    profile = camera.add_video_stream(stream).as_video_stream_profile()
    recorder = rs.recorder(str(path), device)
    recorded, queue = recorder.query_sensors()[0], rs.frame_queue(len(pictures))
    recorded.open(recorded.get_stream_profiles()[0])
    recorded.start(queue)
    began = time.time()
    for number, picture in enumerate(pictures):
        frame = rs.software_video_frame()
        frame.pixels, frame.stride, frame.bpp = np.ascontiguousarray(picture), 3 * width, 3
        frame.timestamp, frame.frame_number = 1e3 * (began + number / fps), number + 1
        frame.domain, frame.profile = rs.timestamp_domain.system_time, profile
        camera.on_video_frame(frame)
        time.sleep(0.005)
    time.sleep(0.2)
    recorded.stop()
    recorded.close()
