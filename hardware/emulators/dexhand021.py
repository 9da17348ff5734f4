"""A DexHand021 on a CAN-FD bus, written against the protocol and not the driver; motors follow at a limited speed."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SPEED = 300.0  # degrees/s
BASE, BOARDS, MOTORS = 7, 6, 2  # of a right hand
COMMAND, CONFIG, CONFIG_REPLY, FEEDBACK = 0x100, 0x00, 0x80, 0x180


class EmulatedHand:
    """angle, target: [6, 2] degrees."""

    def __init__(self, bus: Any) -> None:
        self.bus, (self.angle, self.target) = bus, np.zeros((2, BOARDS, MOTORS))
        self._period_s = np.inf
        self._moved = self._reported = time.monotonic()

    def send(self, identifier: int, payload: bytes) -> None:
        import can

        self.bus.send(can.Message(arbitration_id=identifier, data=payload, is_fd=True, is_extended_id=False))

    def receive(self, identifier: int, data: bytes) -> None:
        """A frame from the host."""
        message, board = identifier & 0xF80, (identifier & 0x7F) - BASE
        if not 0 <= board < BOARDS:
            return
        if message == COMMAND and len(data) >= 6 and data[0] == 0x44:
            wanted = 0.01 * np.frombuffer(data, "<i2", MOTORS, offset=2)
            chosen = [bool(data[1] & 1 << motor) for motor in range(MOTORS)]
            self.target[board] = np.where(chosen, wanted, self.target[board])
        elif message == CONFIG and len(data) >= 2 and data[0] == 3:
            if data[1] == 0x74:
                self._period_s = 0.01 * data[3] if data[4] else np.inf
            self.send(CONFIG_REPLY + identifier, bytes([3, data[1], 0, 1]))

    def step(self) -> None:
        """Moves the motors up to now, and reports when a report is due."""
        now = time.monotonic()
        self.move(now - self._moved)
        self._moved = now
        if now - self._reported >= self._period_s:
            self._reported = now
            for board in range(BOARDS):
                self.report(board)

    def move(self, elapsed_s: float) -> None:
        reach = SPEED * elapsed_s
        self.angle += np.clip(self.target - self.angle, -reach, reach)

    def report(self, board: int) -> None:
        angles = np.rint(100 * self.angle[board]).astype("<i2").tobytes()
        self.send(FEEDBACK + BASE + board, bytes(12) + angles)


def serve(hand: EmulatedHand, stopped: Callable[[], bool]) -> None:
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
        serve(EmulatedHand(bus), lambda: False)


if __name__ == "__main__":
    main()
