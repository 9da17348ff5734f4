"""A DexHand021 on a CAN-FD bus: motors that follow at a limited speed, can be blocked, and latch a stall.

    python -m hardware.emulators.dexhand021 --interface udp_multicast --port 43113

Written against the protocol, not the driver: it packs and unpacks the bytes by itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

SPEED = 300.0  # degrees/s
STALL_S, STALL_DEGREES = 0.1, 3.0  # a motor this far behind a target for so long stalls
BASES = {"left": 1, "right": 7}


class FakeHand:
    """block(board, motor, degrees): where an obstacle stops a motor. mute: boards that say nothing any more."""

    def __init__(self, bus: Any, side: str = "right") -> None:
        self.bus, self.base = bus, BASES[side]
        self.angle = [[0.0, 0.0] for _ in range(6)]
        self.target = [[0.0, 0.0] for _ in range(6)]
        self.obstacle: dict[tuple[int, int], float] = {}
        self.behind: dict[tuple[int, int], float] = {}
        self.stalled: dict[int, int] = {}
        self.mute: set[int] = set()
        self.clears = self.commands = 0
        self.period: float | None = None
        self._moved = self._reported = time.monotonic()

    def block(self, board: int, motor: int, degrees: float) -> None:
        self.obstacle[board, motor] = degrees

    def send(self, identifier: int, payload: bytes) -> None:
        import can

        self.bus.send(can.Message(arbitration_id=identifier, data=payload, is_fd=True, is_extended_id=False))

    def receive(self, identifier: int, data: bytes) -> None:
        """A frame from the host."""
        if 0x100 <= identifier < 0x180 and 0 <= identifier - 0x100 - self.base < 6 and len(data) >= 6:
            self.commands += 1
            if data[0] == 0x44:
                board = identifier - 0x100 - self.base
                for motor in (0, 1):
                    if data[1] & 1 << motor:
                        raw = data[2 + 2 * motor : 4 + 2 * motor]
                        self.target[board][motor] = int.from_bytes(raw, "little", signed=True) / 100.0
        elif 0 <= identifier - self.base < 6 and len(data) >= 2 and data[0] == 3:
            if data[1] == 0xA4:
                self.clears += 1
                self.stalled.pop(identifier - self.base, None)
                self.behind = dict.fromkeys(self.behind, 0.0)
            elif data[1] == 0x74:
                self.period = 0.01 * data[3] if data[4] else None
            self.send(0x80 + identifier, bytes([3, data[1], 0, 1]))

    def step(self) -> None:
        """Moves the motors up to now, and reports when a report is due."""
        now = time.monotonic()
        elapsed, self._moved = now - self._moved, now
        for board in range(6):
            for motor in (0, 1):
                self._move(board, motor, elapsed)
        if self.period is not None and now - self._reported >= self.period:
            self._reported = now
            for board in set(range(6)) - self.mute:
                self._report(board)

    def _move(self, board: int, motor: int, elapsed: float) -> None:
        if board in self.stalled:
            return
        gap = self.target[board][motor] - self.angle[board][motor]
        reach = SPEED * elapsed
        angle = self.angle[board][motor] + max(-reach, min(reach, gap))
        angle = min(angle, self.obstacle.get((board, motor), angle))
        moved, self.angle[board][motor] = abs(angle - self.angle[board][motor]), angle
        key = (board, motor)
        stuck = abs(gap) > STALL_DEGREES and moved < 0.1 * min(reach, abs(gap))
        self.behind[key] = self.behind.get(key, 0.0) + elapsed if stuck else 0.0
        if self.behind[key] > STALL_S:
            self.stalled[board] = 1 << (2 + 4 * motor)

    def _report(self, board: int) -> None:
        angles = b"".join(round(100 * angle).to_bytes(2, "little", signed=True) for angle in self.angle[board])
        self.send(0x180 + self.base + board, bytes(12) + angles)
        if board in self.stalled:
            self.send(0x600 + self.base + board, bytes([0xEE, 1, self.stalled[board]]))


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

    parser = argparse.ArgumentParser(description="A fake DexHand021 on a CAN-FD bus.")
    parser.add_argument("--interface", default="udp_multicast")
    parser.add_argument("--channel", default="239.0.0.21")
    parser.add_argument("--port", type=int, default=43113)
    parser.add_argument("--side", default="right", choices=sorted(BASES))
    options = parser.parse_args()
    port = {"port": options.port} if options.interface == "udp_multicast" else {}
    with can.Bus(interface=options.interface, channel=options.channel, fd=True, **port) as bus:
        print(f"fake {options.side} DexHand021 on {options.interface} {options.channel}", flush=True)
        serve(FakeHand(bus, options.side), lambda: False)


if __name__ == "__main__":
    main()
