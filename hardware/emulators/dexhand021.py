"""A DexHand021 on a CAN-FD bus: motors that follow at a limited speed, can be blocked, and latch a stall.

    python -m hardware.emulators.dexhand021 --port 43113

Written against the protocol, not the driver: it packs and unpacks the bytes by itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SPEED = 300.0  # degrees/s
STALL_S, STALL_DEGREES = 0.1, 3.0  # a motor this far behind a target for so long stalls
BASE, BOARDS, MOTORS = 7, 6, 2  # of a right hand
COMMAND, CONFIG_REPLY, FEEDBACK, ERROR = 0x100, 0x80, 0x180, 0x600


class FakeHand:
    """angle, target: [6, 2] degrees. obstacle: {(board, motor): degrees} at which one stops a motor. mute: boards that
    say nothing any more.
    """

    def __init__(self, bus: Any) -> None:
        self.bus = bus
        self.angle, self.target, self._behind_s = np.zeros((3, BOARDS, MOTORS))
        self.obstacle: dict[tuple[int, int], float] = {}
        self.stalled: dict[int, int] = {}  # board: bits of its error
        self.mute: set[int] = set()
        self.clears = self.commands = 0
        self._period_s = np.inf
        self._moved = self._reported = time.monotonic()

    def send(self, identifier: int, payload: bytes) -> None:
        import can

        self.bus.send(can.Message(arbitration_id=identifier, data=payload, is_fd=True, is_extended_id=False))

    def receive(self, identifier: int, data: bytes) -> None:
        """A frame from the host."""
        board = (identifier & 0x7F) - BASE
        if not 0 <= board < BOARDS:
            return
        if identifier & 0xF80 == COMMAND and len(data) >= 6:
            self.commands += 1
            wanted = 0.01 * np.frombuffer(data, "<i2", MOTORS, offset=2)
            chosen = [bool(data[1] & 1 << motor) for motor in range(MOTORS)]
            if data[0] == 0x44:
                self.target[board] = np.where(chosen, wanted, self.target[board])
        elif identifier & 0xF80 == 0 and len(data) >= 2 and data[0] == 3:
            if data[1] == 0xA4:
                self.clears += 1
                self.stalled.pop(board, None)
                self._behind_s[:] = 0.0
            elif data[1] == 0x74:
                self._period_s = 0.01 * data[3] if data[4] else np.inf
            self.send(CONFIG_REPLY + identifier, bytes([3, data[1], 0, 1]))

    def step(self) -> None:
        """Moves the motors up to now, and reports when a report is due."""
        now = time.monotonic()
        elapsed, self._moved = now - self._moved, now
        for board, motor in np.ndindex(BOARDS, MOTORS):
            if board not in self.stalled:
                self._move(board, motor, elapsed)
        if now - self._reported >= self._period_s:
            self._reported = now
            for board in set(range(BOARDS)) - self.mute:
                self._report(board)

    def _move(self, board: int, motor: int, elapsed: float) -> None:
        before, at = self.angle[board, motor], (board, motor)
        gap, reach = self.target[at] - before, SPEED * elapsed
        self.angle[at] = min(before + np.clip(gap, -reach, reach), self.obstacle.get(at, np.inf))
        stuck = abs(gap) > STALL_DEGREES and abs(self.angle[at] - before) < 0.1 * min(reach, abs(gap))
        self._behind_s[at] = self._behind_s[at] + elapsed if stuck else 0.0
        if self._behind_s[at] > STALL_S:
            self.stalled[board] = 1 << (2 + 4 * motor)

    def _report(self, board: int) -> None:
        angles = np.rint(100 * self.angle[board]).astype("<i2").tobytes()
        self.send(FEEDBACK + BASE + board, bytes(12) + angles)
        if board in self.stalled:
            self.send(ERROR + BASE + board, bytes([0xEE, 1, self.stalled[board]]))


def serve(hand: FakeHand, stopped: Callable[[], bool]) -> None:
    """Runs the hand until `stopped()`."""
    while not stopped():
        message = hand.bus.recv(timeout=0.002)
        while message is not None:
            hand.receive(message.arbitration_id, bytes(message.data))
            message = hand.bus.recv(timeout=0)
        hand.step()


def main() -> None:
    import can

    parser = argparse.ArgumentParser(description="An emulated DexHand021 on a CAN-FD bus over UDP.")
    parser.add_argument("--port", type=int, default=43113)
    port = parser.parse_args().port
    with can.Bus(interface="udp_multicast", channel="239.0.0.21", fd=True, port=port) as bus:
        print(f"emulated DexHand021 at 239.0.0.21, port {port}", flush=True)
        serve(FakeHand(bus), lambda: False)


if __name__ == "__main__":
    main()
