"""Calibrates a cell, step by step; each writes one file.

    python hardware/calibrate.py sheet    --out cube.pdf                       # the cube's faces, to print at 100 %
    python hardware/calibrate.py camera   --serial 123 --out camera.json       # intrinsics, from the camera itself
    python hardware/calibrate.py record   --host 172.16.0.2 --serial 123 --intrinsics camera.json --out pairs.json
    python hardware/calibrate.py hand-eye --pairs pairs.json --out hand_eye.json

`record` moves the arm slowly about where it is; the cube is fixed to the robot's hand as the person will hold it, in
sight of the camera, and the space around is free. `hand-eye` says how well all fits, and writes `cube_to_ee`, the
constant `C` of DexHiL eq. 3, and where the camera is.
"""

from dexhil.start import begin
from hardware.runtime import options as command_options

if __name__ == "__main__":
    begin(command_options.calibrate())

import argparse
import dataclasses
import json
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from dexhil.commands import run_command
from hardware.devices.base import Arm, DeviceError, Tracker
from hardware.drivers.aruco_cube import ArucoCube
from hardware.drivers.fr3 import FR3
from hardware.drivers.realsense import RealSense
from hardware.teleop.calibration import HandEye, save, save_intrinsics, solve_hand_eye, turned_around, visit
from hardware.teleop.cube import CUBE_M, DICTIONARY, MARKER_M, NORMALS, Intrinsics

DPI = 300
A4_M = (0.210, 0.297)
FACE_NAMES = ("front +x", "left +y", "back -x", "right -y", "top +z")
SURE_MM, SURE_DEG = 3.0, 1.0  # a misfit above means that something moved, or that a size is wrong


def cube_sheet() -> np.ndarray:
    """An A4 page, uint8 [H, W], with the five faces at DPI dots per inch."""
    dots = DPI / 0.0254
    page = np.full((round(A4_M[1] * dots), round(A4_M[0] * dots)), 255, np.uint8)
    face, marker = round(CUBE_M * dots), round(MARKER_M * dots)
    dictionary = cv2.aruco.getPredefinedDictionary(DICTIONARY)
    for number in range(len(NORMALS)):
        top = round(0.02 * dots) + (number // 2) * (face + round(0.015 * dots))
        left = round(0.03 * dots) + (number % 2) * (face + round(0.02 * dots))
        cv2.rectangle(page, (left, top), (left + face, top + face), 160, 1)  # the line to cut along
        inset = (face - marker) // 2
        picture = cv2.aruco.generateImageMarker(dictionary, number, marker)
        page[top + inset : top + inset + marker, left + inset : left + inset + marker] = picture
        cv2.putText(page, FACE_NAMES[number], (left, top + face + 30), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 100, 2)
    return page


def write_sheet(options: argparse.Namespace) -> None:
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cube_sheet()).save(options.out, resolution=DPI, dpi=(DPI, DPI))
    print(
        f"{options.out}: print at 100 % and measure: black squares {1e3 * MARKER_M:g} mm, faces {1e3 * CUBE_M:g} mm. "
        "Glue the faces on with their writing towards the handle, the top's towards the front"
    )


def write_camera(options: argparse.Namespace) -> None:
    width, height = options.size
    camera = RealSense(serial=options.serial, file=options.file, width=width, height=height)
    camera.connect()
    try:
        matrix, distortion = camera.intrinsics()
    finally:
        camera.stop()
    save_intrinsics(Intrinsics(matrix, distortion), options.out, width=width, height=height)
    print(f"{options.out}: focal length {matrix[0, 0]:.1f} px, centre {matrix[0, 2]:.1f}, {matrix[1, 2]:.1f} px")


def record(options: argparse.Namespace) -> None:
    width, height = options.size
    camera = RealSense(serial=options.serial, width=width, height=height)
    arm, tracker = FR3(host=options.host), ArucoCube(camera=camera, intrinsics=options.intrinsics)
    input(
        "The arm will move slowly by up to 10 cm and 30 degrees. Space free, hand on the stop button? Enter to begin "
    )
    try:
        arm.connect()
        tracker.connect()
        pairs = record_pairs(arm, tracker, options.poses, np.random.default_rng(0))
    finally:
        arm.stop()
        tracker.stop()
    save(options.out, pairs)
    print(f"{options.out}: {len(pairs['poses_base_ee'])} pairs")


def record_pairs(
    arm: Arm, tracker: Tracker, count: int, rng: np.random.Generator, speed: float = 0.2
) -> dict[str, list[list[float]]]:
    """Visits `count` poses around where the arm is, at `speed` rad/s, and goes back; what was seen, as poses [7]."""
    reading = arm.read()
    if reading is None:
        raise DeviceError(f"{arm.name}: no reading; connect it first")
    start = reading.value.q
    pairs: dict[str, list[list[float]]] = {"poses_base_ee": [], "poses_camera_cube": []}
    for number, target in enumerate([*turned_around(start, count, rng), start]):
        seen = visit(arm, tracker, target, speed)
        print(
            f"pose {number + 1} of {count + 1}: {'seen' if seen else tracker.health().message or 'not seen'}",
            flush=True,
        )
        for key, pose in zip(pairs, seen or (), strict=False):
            pairs[key].append(pose.tolist())
    return pairs


def hand_eye(options: argparse.Namespace) -> HandEye:
    """Solves, writes and reports. Raises ValueError where the file holds no pairs."""
    try:
        pairs = json.loads(options.pairs.read_text())
        ee, cube = np.array(pairs["poses_base_ee"], np.float64), np.array(pairs["poses_camera_cube"], np.float64)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{options.pairs}: expected a file of `record`: {type(error).__name__}: {error}") from None
    found = solve_hand_eye(ee, cube)
    save(options.out, dataclasses.asdict(found) | {"cube_to_ee": found.cube_to_ee})
    print(f"{options.out}: {found.report()}")
    if np.median(found.position_mm) > SURE_MM or np.median(found.rotation_deg) > SURE_DEG:
        print("this is too much: is the cube tight, are its sizes right, are the intrinsics of this camera and size?")
    return found


STEPS = {"sheet": write_sheet, "camera": write_camera, "record": record, "hand-eye": hand_eye}


def main(argv: Sequence[str]) -> None:
    options = command_options.calibrate().parse_args(argv)
    STEPS[options.step](options)


if __name__ == "__main__":
    run_command(main)
