"""The messages of the bridge for Manus gloves, from key points and from angles."""

from __future__ import annotations

import numpy as np

SERIAL = "6bb82ce1"
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
