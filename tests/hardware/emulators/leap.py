"""A LEAP hand's 16 servos on a pseudo-terminal, speaking Dynamixel protocol 2.0.

    python -m tests.hardware.emulators.leap

Prints the port. Written against the published protocol, not the driver or its SDK.
"""

from __future__ import annotations

import os
import pty
import select
import time
import tty
from collections.abc import Callable

HEADER = b"\xff\xff\xfd\x00"
PING, READ, WRITE, REBOOT, SYNC_READ, SYNC_WRITE, STATUS = 0x01, 0x02, 0x03, 0x08, 0x82, 0x83, 0x55
SPEED = 6000.0  # ticks/s


def crc(data: bytes) -> bytes:
    """CRC-16 with polynomial 0x8005, high bit first, as two bytes, low one first."""
    value = 0
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x8005 if value & 0x8000 else value << 1) & 0xFFFF
    return value.to_bytes(2, "little")


def packet(servo: int, instruction: int, content: bytes) -> bytes:
    stuffed = content.replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")
    body = HEADER + bytes([servo]) + (len(stuffed) + 3).to_bytes(2, "little") + bytes([instruction]) + stuffed
    return body + crc(body)


class FakeServos:
    """memory: the control table of each servo. dead: servos that do not answer. garble: spoils so many next replies."""

    def __init__(self, count: int = 16) -> None:
        self.ours, self.theirs = pty.openpty()
        tty.setraw(self.theirs)
        self.port = os.ttyname(self.theirs)
        self.memory = {servo: bytearray(256) for servo in range(count)}
        for memory in self.memory.values():
            memory[132:136] = (2048).to_bytes(4, "little")
        self.dead: set[int] = set()
        self.garble = self.reboots = self.writes = 0
        self._buffer = b""
        self._moved = time.monotonic()

    def close(self) -> None:
        os.close(self.ours)
        os.close(self.theirs)

    def number(self, servo: int, address: int, length: int) -> int:
        return int.from_bytes(self.memory[servo][address : address + length], "little", signed=length == 4)

    def serve(self, stopped: Callable[[], bool]) -> None:
        while not stopped():
            if select.select([self.ours], [], [], 0.02)[0]:
                self._buffer += os.read(self.ours, 4096)
                self._handle_all()

    def _handle_all(self) -> None:
        while (at := self._buffer.find(HEADER)) >= 0 and len(self._buffer) >= at + 7:
            length = int.from_bytes(self._buffer[at + 5 : at + 7], "little")
            whole = self._buffer[at : at + 7 + length]
            if len(whole) < 7 + length:
                return
            self._buffer = self._buffer[at + 7 + length :]
            if crc(whole[:-2]) == whole[-2:]:
                self._move()
                self._handle(whole[4], whole[7], whole[8:-2].replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd"))

    def _move(self) -> None:
        now = time.monotonic()
        reach, self._moved = SPEED * (now - self._moved), now
        for servo, memory in self.memory.items():
            if memory[64] and not memory[70]:
                at = self.number(servo, 132, 4)
                gap = self.number(servo, 116, 4) - at
                memory[132:136] = round(at + max(-reach, min(reach, gap))).to_bytes(4, "little", signed=True)

    def _handle(self, servo: int, instruction: int, content: bytes) -> None:
        if instruction == SYNC_WRITE:
            address, length = int.from_bytes(content[:2], "little"), int.from_bytes(content[2:4], "little")
            self.writes += 1
            for at in range(4, len(content), length + 1):
                self._store(content[at], address, content[at + 1 : at + 1 + length])
        elif instruction == SYNC_READ:
            address, length = int.from_bytes(content[:2], "little"), int.from_bytes(content[2:4], "little")
            for one in content[4:]:
                self._reply(one, bytes(self.memory[one][address : address + length]))
        elif instruction == READ:
            address, length = int.from_bytes(content[:2], "little"), int.from_bytes(content[2:4], "little")
            self._reply(servo, bytes(self.memory[servo][address : address + length]))
        elif instruction == WRITE:
            self._store(servo, int.from_bytes(content[:2], "little"), content[2:])
            self._reply(servo, b"")
        elif instruction == REBOOT:
            self.reboots += 1
            self.memory[servo][70] = self.memory[servo][64] = 0
            self._reply(servo, b"")
        elif instruction == PING:
            self._reply(servo, bytes([0x9C, 0x04, 0x34]))

    def _store(self, servo: int, address: int, data: bytes) -> None:
        if not (address == 64 and self.memory[servo][70]):  # a servo in shutdown takes no torque
            self.memory[servo][address : address + len(data)] = data

    def _reply(self, servo: int, content: bytes) -> None:
        if servo in self.dead:
            return
        alert = 0x80 if self.memory[servo][70] else 0
        reply = packet(servo, STATUS, bytes([alert]) + content)
        if self.garble > 0:
            self.garble -= 1
            reply = reply[: len(reply) // 2] + os.urandom(3)
        os.write(self.ours, reply)


def main() -> None:
    servos = FakeServos()
    print(servos.port, flush=True)
    servos.serve(lambda: False)


if __name__ == "__main__":
    main()
