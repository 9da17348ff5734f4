"""A glove server as GeoRT's (arXiv 2503.07541): ZMQ PUB of float32 [21, 3] m, in the order of our key points."""

import time
from collections.abc import Iterator

import numpy as np

from dexhil.retargeting.keypoints import NUM_POINTS
from hardware.devices.gloves import ZmqGlove, check_address

NUM_BYTES = 4 * NUM_POINTS * 3
SILENT_S = 5.0  # without a frame for so long, the glove is not there


def decode(message: bytes) -> np.ndarray:
    """Key points [21, 3] m. Raises ValueError on another size."""
    if len(message) != NUM_BYTES:
        raise ValueError(f"expected messages of float32 [{NUM_POINTS}, 3], {NUM_BYTES} bytes; got {len(message)} bytes")
    return np.frombuffer(message, np.float32).reshape(NUM_POINTS, 3).astype(np.float64)


def stream(address: str, *, silent_s: float = SILENT_S) -> Iterator[tuple[float, np.ndarray]]:
    """(time of arrival s, key points [21, 3] m) of every message; ValueError when none comes for `silent_s`."""
    check_address(address)
    import zmq

    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, round(1e3 * silent_s))
        socket.subscribe(b"")
        socket.connect(address)
        while True:
            try:
                message = socket.recv()
            except zmq.Again:
                raise ValueError(
                    f"{address}: no key points within {silent_s:g} s; start the glove's publisher, or name its "
                    "address with --stream"
                ) from None
            try:
                yield time.monotonic(), decode(message)
            except ValueError as error:
                raise ValueError(f"{address}: {error}") from None


class GeortGlove(ZmqGlove):
    """Key points [21, 3] m of a right hand."""

    def __init__(
        self, address: str = "tcp://localhost:8765", *, name: str = "glove", period_s: float = 1 / 90,
        silent_s: float = 0.2, connect_s: float = 3.0,
    ) -> None:  # fmt: skip
        super().__init__(address, "SUB", name=name, period_s=period_s, silent_s=silent_s, connect_s=connect_s)

    def decode(self, message: bytes) -> np.ndarray:
        return decode(message)
