"""How exactly, how surely and how fast the cube is tracked, on rendered images of a moving cube.

    python experiments/benchmarks/cube_tracker.py --out FILE.json [--frames 1000]

One core, images of 1280 x 720 at 30 Hz, field of view of a D435's colour camera, blur 0.7 px, noise of 3 grey levels,
before clutter. Writes {"distances": {m: {"position_mm", "rotation_deg" (median and 95 %), "valid" (fraction of frames
with a believed pose), "flips_per_1000" (believed poses that are more than 30 degrees off), "ms" (CPU per frame, median,
95 % and longest)}}, "frames"}: errors are of the tracker's poses, before the filter.
"""

import os
import time
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.robots.poses import make_pose
from experiments.benchmarks.result import parser, write_result
from hardware.emulators import cube as emulator
from hardware.teleop.cube import Intrinsics
from hardware.teleop.cube_tracking import CubeTracker, turned

DISTANCES_M = (0.3, 0.5, 0.8, 1.2)
RATE_HZ = 30.0
FLIP_RAD = np.radians(30.0)


def moving(time_s: float, distance_m: float, phases: np.ndarray) -> np.ndarray:
    """pose_camera_cube [7]: a hand that moves and turns the cube about the image's middle, its top leaning over."""
    side, down, away, lean, roll, spin = np.sin(np.array([1.1, 1.7, 0.9, 0.8, 0.6, 0.35]) * time_s + phases)
    position = [0.2 * distance_m * side, 0.1 * distance_m * down, distance_m + 0.03 * away]
    rotation = Rotation.from_euler("xyz", [-np.pi / 2 - 0.45 + 0.35 * lean, 0.3 * roll, 0.0])
    return make_pose(np.array(position), rotation * Rotation.from_euler("z", 2.5 * spin))


def measure(distance_m: float, frames: int, seed: int = 0) -> dict[str, Any]:
    """The figures at one distance."""
    rng, scene = np.random.default_rng(seed), emulator.camera()
    background, phases = emulator.clutter(scene, rng), rng.uniform(0, 2 * np.pi, 6)
    tracker = CubeTracker(Intrinsics(scene.matrix, np.zeros(5)))
    position, rotation, seconds = [], [], []
    for frame in range(frames):
        pose = moving(frame / RATE_HZ, distance_m, phases)
        image = emulator.render(pose, scene, background, rng)
        began = time.process_time()
        seen = tracker(image, frame / RATE_HZ).pose_camera_cube
        seconds.append(time.process_time() - began)
        if seen is not None:
            position.append(np.linalg.norm(seen[:3] - pose[:3]))
            rotation.append(turned(pose, seen))
    return {
        "position_mm": percentiles(1e3 * np.array(position), 50, 95),
        "rotation_deg": percentiles(np.degrees(rotation), 50, 95),
        "valid": len(position) / frames,
        "flips_per_1000": 1e3 * float((np.array(rotation) > FLIP_RAD).sum()) / max(len(rotation), 1),
        "ms": percentiles(1e3 * np.array(seconds), 50, 95, 100),
    }


def percentiles(values: np.ndarray, *wanted: float) -> list[float]:
    return np.percentile(values, wanted).round(4).tolist() if len(values) else []


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--frames", type=int, default=1000)
    options = arguments.parse_args()
    cv2.setNumThreads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    results = {}
    for distance in DISTANCES_M:
        results[f"{distance:g}"] = measure(distance, options.frames)
        print(f"{distance:g} m", results[f"{distance:g}"], flush=True)
    write_result(options.out, {"frames": options.frames, "distances": results})


if __name__ == "__main__":
    main()
