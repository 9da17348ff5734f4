"""An Inspire RH56 hand: pymodbus' RTU server on one end of a serial line made of two pseudo-terminals.

    python -m tests.hardware.emulators.inspire

Prints the port.
"""

from __future__ import annotations

import asyncio
import os
import pty
import select
import time
import tty
from collections.abc import Callable
from typing import Any

SPEED = 2000.0  # steps/s
STALL_S = 0.15
FIRST, COUNT = 1000, 700  # registers that the hand has


class FakeInspire:
    """angle, target: [6] steps. obstacle: {motor: steps} below which it does not close. mute: says nothing.
    garble: spoils so many next pieces of its replies."""

    def __init__(self) -> None:
        self.ours, self._their_ends = [], []
        for _ in range(2):
            ours, theirs = pty.openpty()
            tty.setraw(theirs)
            self.ours.append(ours)
            self._their_ends.append(theirs)
        self._server_port, self.port = (os.ttyname(end) for end in self._their_ends)
        self.angle, self.target = [1000.0] * 6, [1000.0] * 6
        self.obstacle: dict[int, float] = {}
        self.error = [0] * 6
        self._stuck = [0.0] * 6
        self.mute = False
        self.garble = self.clears = 0
        self._moved = time.monotonic()

    def close(self) -> None:
        for end in (*self.ours, *self._their_ends):
            os.close(end)

    def serve(self, stopped: Callable[[], bool]) -> None:
        asyncio.run(self._serve(stopped))

    async def _serve(self, stopped: Callable[[], bool]) -> None:
        from pymodbus.server import ModbusSerialServer
        from pymodbus.simulator import DataType, SimData, SimDevice

        registers = SimData(FIRST, count=COUNT, values=0, datatype=DataType.REGISTERS)
        device = SimDevice(1, [registers], action=self._action)
        server = ModbusSerialServer(device, port=self._server_port, baudrate=115200)
        await server.serve_forever(background=True)
        wires = asyncio.create_task(asyncio.to_thread(self._carry, stopped))
        await wires
        await server.shutdown()

    def _carry(self, stopped: Callable[[], bool]) -> None:
        """The line: what one end sends, the other receives."""
        server, client = self.ours
        while not stopped():
            for end in select.select(self.ours, [], [], 0.02)[0]:
                data = os.read(end, 4096)
                if end == server and self.garble > 0:
                    self.garble -= 1
                    data = data[: len(data) // 2] + os.urandom(2)
                if not (self.mute and end == server):
                    os.write(client if end == server else server, data)

    async def _action(
        self, function: int, first: int, address: int, count: int, registers: list[int], values: Any
    ) -> None:
        self._move()
        if values is not None and address == 1486:
            self.target = [float(value) for value in values]
        elif values is not None and address == 1004 and values[0] == 1:
            self.clears += 1
            self.error, self._stuck = [0] * 6, [0.0] * 6
        for motor in range(6):
            registers[1546 - first + motor] = round(self.angle[motor])
        for pair in range(3):
            registers[1606 - first + pair] = self.error[2 * pair] | self.error[2 * pair + 1] << 8

    def _move(self) -> None:
        now = time.monotonic()
        elapsed, self._moved = now - self._moved, now
        for motor in range(6):
            if self.error[motor]:
                continue
            gap = self.target[motor] - self.angle[motor]
            angle = self.angle[motor] + max(-SPEED * elapsed, min(SPEED * elapsed, gap))
            blocked = angle < self.obstacle.get(motor, angle)
            self.angle[motor] = max(angle, self.obstacle.get(motor, angle))
            self._stuck[motor] = self._stuck[motor] + elapsed if blocked else 0.0
            if self._stuck[motor] > STALL_S:
                self.error[motor] = 1


def main() -> None:
    hand = FakeInspire()
    print(hand.port, flush=True)
    hand.serve(lambda: False)


if __name__ == "__main__":
    main()
