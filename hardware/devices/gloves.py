"""Gloves that arrive as ZMQ messages: one socket, the newest message, and what is wrong with it."""

import abc
import re
import time
from typing import Any

import numpy as np

from dexhil.frozen import FrozenSignal
from dexhil.retargeting.keypoints import fault_of
from dexhil.retargeting.runtime import FROZEN
from hardware.devices.streams import Sample, Stream

WAIT_MS = 50


class ZmqGlove(Stream[np.ndarray]):
    """Key points [21, 3] m out of messages; no right hand, or a frozen one, is not valid: the last good one stays."""

    gives_keypoints = True  # not hand joints: a rig needs a retargeter for them

    def __init__(
        self, address: str, kind: str, *, name: str, period_s: float, silent_s: float, connect_s: float
    ) -> None:
        super().__init__(
            name, period_s, silent_s=silent_s, connect_s=connect_s,
            remedy=f"start the glove's publisher at {address} and check that the glove is on and calibrated",
        )  # fmt: skip
        check_address(address)
        self._address, self._kind = address, kind
        self._context: Any = None
        self._socket: Any = None
        self._frozen = FrozenSignal(FROZEN, "frame")

    @abc.abstractmethod
    def decode(self, message: bytes) -> np.ndarray | None:
        """Key points [21, 3] m; None for a message about something else. Raises ValueError for one that is broken."""

    def _open(self) -> None:
        zmq = self._load("zmq", "pyzmq")
        self._context = zmq.Context()
        self._socket = self._context.socket(getattr(zmq, self._kind))
        self._socket.setsockopt(zmq.LINGER, 0)
        if self._kind == "SUB":
            self._socket.subscribe(b"")
        self._socket.connect(self._address)

    def _close(self) -> None:
        if self._context is not None:
            self._context.destroy(linger=0)
        self._context = self._socket = None

    def _poll(self) -> Sample[np.ndarray] | None:
        if not self._socket.poll(WAIT_MS):
            return None
        now = time.monotonic()
        fault = ""
        for message in reversed(self._waiting()):
            try:
                points = self.decode(message)
            except ValueError as error:
                fault = fault or str(error)
                continue
            if points is not None:
                frozen = self._frozen(points)
                return Sample(points, now, fault_of(points) or frozen)
        return Sample(None, now, fault) if fault else None

    def _waiting(self) -> list[bytes]:
        import zmq

        messages = []
        try:
            while True:
                messages.append(self._socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            return messages


def check_address(address: str) -> None:
    """Raises ValueError unless `address` is that of a ZMQ publisher."""
    tcp = re.fullmatch(r"tcp://(?:[\w.-]+|\[[\da-fA-F:.]+\]):(\d+)", address)
    if not ((tcp and 0 < int(tcp[1]) < 65536) or re.fullmatch(r"ipc://.+", address)):
        raise ValueError(f"address {address!r}: expected one such as tcp://localhost:8765, with a port of 1 to 65535")
