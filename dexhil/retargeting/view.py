"""A recording in a browser: the person's hand and the robot's side by side, with the frame's figures. Needs viser."""

import itertools
import os
import socket
import time
from collections.abc import Callable

import numpy as np

from dexhil.retargeting.hand import PAD_RADIUS_M
from dexhil.retargeting.keypoints import TIPS, skeleton
from dexhil.retargeting.kinematics import CanonicalHand

COLOURS = {
    "thumb": (214, 39, 40), "index": (255, 127, 14), "middle": (44, 160, 44), "ring": (31, 119, 180),
    "little": (148, 103, 189),
}  # fmt: skip
SIDE_M = 0.16  # from each hand to the middle


def show(
    robot: CanonicalHand,
    clip: np.ndarray,
    method: Callable[[np.ndarray], np.ndarray],
    *,
    scale: float,
    rate_hz: float = 30.0,
    port: int = 8080,
    frames: int | None = None,
) -> None:
    """Plays `clip` [T, 21, 3] m, canonical frame, in a loop at http://localhost:PORT until Ctrl-C or `frames` frames.

    method: key points [T, 21, 3] -> motors [T, m] rad. scale: of the robot's hand to the person's.
    Raises ValueError where the port is in use.
    """
    check_port(port)  # viser would take another one, without a word
    import viser

    motors = method(clip)
    human_lines, robot_lines = skeleton(scale * clip), robot.skeleton(motors)
    tips, pads = robot.tips(motors), robot.pads(motors)
    server = viser.ViserServer(host="127.0.0.1", port=port, verbose=False)
    server.scene.add_grid("/table", width=1.0, height=0.6, cell_size=0.05)
    drawn = {}
    for name, lines, side in (("person", human_lines, -SIDE_M), ("robot", robot_lines, SIDE_M)):
        server.scene.add_label(f"/{name}", name, position=(0.0, side, -0.03))
        for finger, line in lines.items():
            drawn[name, finger] = server.scene.add_line_segments(
                f"/{name}/{finger}", _segments(line[0]), COLOURS[finger], thickness=0.008, position=(0.0, side, 0.0)
            )
    play = server.gui.add_checkbox("play", initial_value=True)
    slider = server.gui.add_slider("frame", min=0, max=len(clip) - 1, step=1, initial_value=0)
    numbers = server.gui.add_markdown("")
    error = 1e3 * np.linalg.norm(tips - scale * clip[:, TIPS[robot.columns]], axis=-1)
    human_gap = 1e3 * np.linalg.norm(clip[:, TIPS[robot.columns[1:]]] - clip[:, TIPS[:1]], axis=-1)
    pad_gap = 1e3 * (np.linalg.norm(pads[:, 1:] - pads[:, :1], axis=-1) - 2 * PAD_RADIUS_M)
    print(f"view: http://localhost:{server.get_port()} (Ctrl-C ends it)", flush=True)
    try:
        for _ in itertools.count() if frames is None else range(frames):
            frame = int(slider.value)
            for name, lines in (("person", human_lines), ("robot", robot_lines)):
                for finger, line in lines.items():
                    drawn[name, finger].points = _segments(line[frame])
            numbers.content = _numbers(robot, error[frame], human_gap[frame], pad_gap[frame])
            if play.value:
                slider.value = (frame + 1) % len(clip)
            time.sleep(1.0 / rate_hz)
    finally:
        server.stop()


def check_port(port: int) -> None:
    """Raises ValueError unless a page can be shown at `port` of this machine."""
    if not 0 < port < 65536:
        raise ValueError(f"--port {port}: expected 1 to 65535")
    try:
        with socket.create_server(("127.0.0.1", port)):
            pass
    except OSError as error:
        raise ValueError(
            f"--port {port} cannot be used ({os.strerror(error.errno or 0)}); choose another, such as {port + 1}"
        ) from None


def _segments(line: np.ndarray) -> np.ndarray:
    return np.stack([line[:-1], line[1:]], axis=1).astype(np.float32)


def _numbers(robot: CanonicalHand, error: np.ndarray, human_gap: np.ndarray, pad_gap: np.ndarray) -> str:
    gaps = [("", ""), *((f"{human:.0f}", f"{pad:.0f}") for human, pad in zip(human_gap, pad_gap, strict=True))]
    rows = [
        f"| {finger} | {miss:.0f} | {human} | {pad} |"
        for finger, miss, (human, pad) in zip(robot.hand.fingers, error, gaps, strict=True)
    ]
    return "\n".join(["| mm | tip error | person to thumb | pads apart |", "|---|---|---|---|", *rows])
