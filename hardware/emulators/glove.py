"""A glove on a hand that opens and closes, in each form that the glove drivers read.

    python -m hardware.emulators.glove --form geort --address tcp://127.0.0.1:8765

Forms: geort (PUB, float32 [21, 3]), manus-windows, manus-linux (PUSH, serial + 25 nodes), ergonomics (PUSH, 40 angles).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time

import numpy as np

from dexhil.retargeting import synthetic

SERIAL = "6bb82ce1"
FORMS = ("geort", "manus-windows", "manus-linux", "ergonomics")
# Key points in the order of the nodes; None: the root of a metacarpal, which lies near the wrist.
_THUMB, _INDEX, _MIDDLE = [1, 2, 3, 4], [None, 5, 6, 7, 8], [None, 9, 10, 11, 12]
_RING, _LITTLE = [None, 13, 14, 15, 16], [None, 17, 18, 19, 20]
ORDERS = {
    "manus-windows": [0, *_THUMB, *_INDEX, *_MIDDLE, *_RING, *_LITTLE],
    "manus-linux": [0, *_INDEX, *_MIDDLE, *_LITTLE, *_RING, *_THUMB],
}


def nodes_text(points: np.ndarray, form: str, serial: str = SERIAL) -> bytes:
    """A bridge's message about one glove, from key points [21, 3] m."""
    fields = [serial]
    for index, point in enumerate(ORDERS[form]):
        knuckle = next(p for p in ORDERS[form][index:] if p is not None)
        position = 0.15 * points[knuckle] if point is None else points[point]
        fields += [f"{value:.6f}" for value in (*position, 0.0, 0.0, 0.0, 1.0)]
    return ",".join(fields).encode()


def ergonomics_text(degrees: np.ndarray) -> bytes:
    """40 angles, both hands alike, from [20] degrees."""
    return ",".join(f"{value:.3f}" for value in (*degrees, *degrees)).encode()


def message(points: np.ndarray, angles: np.ndarray, form: str) -> bytes:
    """What the form sends for a hand with key points [21, 3] m, or with ergonomics angles [20] degrees."""
    if form == "geort":
        return points.astype(np.float32).tobytes()
    return ergonomics_text(angles) if form == "ergonomics" else nodes_text(points, form)


def main() -> None:
    import zmq

    parser = argparse.ArgumentParser(description="A fake glove.")
    parser.add_argument("--form", default="geort", choices=FORMS)
    parser.add_argument("--address", default="tcp://127.0.0.1:8765")
    parser.add_argument("--rate", type=float, default=90.0)
    options = parser.parse_args()
    socket = zmq.Context().socket(zmq.PUB if options.form == "geort" else zmq.PUSH)
    socket.setsockopt(zmq.LINGER, 0)
    socket.bind(options.address)
    print(f"fake glove, {options.form}, at {options.address}", flush=True)
    began = time.monotonic()
    for count in itertools.count():
        bent = 0.5 - 0.5 * np.cos(count / options.rate)  # opening and closing
        points = synthetic.keypoints_of(synthetic.OPEN + bent * (synthetic.FIST - synthetic.OPEN))
        angles = np.tile([0.0, 80.0, 80.0, 60.0], 5) * bent
        with contextlib.suppress(zmq.Again):  # nobody listens
            socket.send(message(points, angles, options.form), zmq.NOBLOCK)
        time.sleep(max(0.0, began + (count + 1) / options.rate - time.monotonic()))


if __name__ == "__main__":
    main()
