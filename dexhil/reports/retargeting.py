"""report.html of a retargeter: the canonical gestures, person beside robot, and the table of metrics."""

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from dexhil.reports.page import Block, Cell, Image, Section, Table, Text, write_run_page
from dexhil.retargeting.hand import Hand
from dexhil.retargeting.keypoints import gesture_frames, skeleton
from dexhil.retargeting.kinematics import CanonicalHand
from dexhil.retargeting.view import COLOURS

Method = Callable[[np.ndarray], np.ndarray]


GOALS: dict[str, tuple[str, float, float]] = {  # metric -> in words, the lowest and the highest figure that is good
    "tip_error_mm": ("<= 15", -math.inf, 15), "pinch_contact": (">= 0.95", 0.95, math.inf),
    "max_step_mm": ("<= 10", -math.inf, 10), "sweep_jump_mm": ("<= 3", -math.inf, 3),
    "sweep_hysteresis_mm": ("0", -math.inf, 0.05), "fist_completeness": ("0.95 to 1.05", 0.95, 1.05),
    "open_hand_error_deg": ("<= 15", -math.inf, 15), "coverage": (">= 0.80", 0.8, math.inf),
    "motion_preservation": (">= 0.95", 0.95, math.inf), "jerk_gain": ("<= 1", -math.inf, 1),
    "lag_frames": ("0", -math.inf, 0),
}  # fmt: skip


def write_retargeting_report(
    workdir: Path,
    report: Mapping[str, Any],
    hand: Hand,
    clips: Mapping[str, np.ndarray],
    methods: Mapping[str, Mapping[str, Method]],
) -> Path:
    """Writes workdir/report.html. clips: name -> [T, 21, 3] m, held out; methods: clip -> method -> its mapping."""
    sections = []
    for name, clip in clips.items():
        scores = report["results"]["clips"][name][hand.name]
        blocks: list[Block] = [metrics_table(scores), Image(gestures_picture(hand, clip, methods[name]))]
        sections.append(Section(f"{name}, frames that were not learnt from", blocks))
    sections.append(Section("How to read it", [Text(READING)]))
    return write_run_page(workdir, report, [], sections, title=f"retarget: {hand.name}")


READING = (
    "Tip error is against the person's tips in the wrist frame, scaled by the ratio of the hands' sizes. A pinch "
    "counts when the robot's pads are less than 5 mm apart while the person's tips are less than 15 mm apart. A small "
    "motion is a frame in which no tip of the person moves 5 mm. Coverage is the fraction of what the robot's tips can "
    "reach that they visited; it pulls against the tip error: a person's tips, scaled, do not go everywhere."
)


def metrics_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """One row per metric, one column per method; a figure that misses its goal is marked."""

    def cell(value: float | None, low: float, high: float) -> Cell:
        if value is None:  # such as of a fist that no held-out frame shows
            return Cell("not seen")
        return Cell(f"{value:.3g}", missed=not low <= value <= high)

    rows = [
        [metric, *(cell(values[metric], low, high) for values in scores.values()), text]
        for metric, (text, low, high) in GOALS.items()
    ]
    return Table(("metric", *scores, "goal"), rows)


def gestures_picture(hand: Hand, clip: np.ndarray, methods: Mapping[str, Method]) -> bytes:
    """PNG: a column per gesture; the person in the first row, each method's robot hand below."""
    robot = CanonicalHand(hand)
    frames = gesture_frames(clip, hand.fingers)
    poses = clip[list(frames.values())]
    rows = {"person": skeleton(poses), **{name: robot.skeleton(method(poses)) for name, method in methods.items()}}
    figure = plt.figure(figsize=(2.1 * len(frames), 2.4 * len(rows)), layout="constrained")
    for row, (name, lines) in enumerate(rows.items()):
        reach = max(np.abs(line).max() for line in lines.values())
        for column, gesture in enumerate(frames):
            axes = figure.add_subplot(len(rows), len(frames), row * len(frames) + column + 1, projection="3d")
            for finger, line in lines.items():
                axes.plot(*line[column].T, "-o", markersize=2.5, linewidth=2, color=np.array(COLOURS[finger]) / 255)
            axes.set(xlim=(-0.3 * reach, 0.7 * reach), ylim=(-reach / 2, reach / 2), zlim=(0, reach))
            axes.set_box_aspect((1, 1, 1), zoom=1.5)  # pyright: ignore[reportArgumentType]
            axes.view_init(elev=12, azim=35)
            axes.set_axis_off()
            axes.set_title(f"{name}: {gesture}" if not column else gesture, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    plt.close(figure)
    return buffer.getvalue()
