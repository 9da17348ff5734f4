"""A DexHand021 with faults: motors that are blocked and latch a stall, boards that fall silent."""

from __future__ import annotations

from typing import Any

import numpy as np

from hardware.emulators.dexhand021 import BASE, BOARDS, COMMAND, CONFIG, MOTORS, SPEED, EmulatedHand

STALL_S, STALL_DEGREES = 0.1, 3.0  # a motor this far behind a target for so long stalls
ERROR = 0x600


class FaultyHand(EmulatedHand):
    """obstacle: {(board, motor): degrees} at which one stops a motor. mute: boards that say nothing any more."""

    def __init__(self, bus: Any) -> None:
        super().__init__(bus)
        self.obstacle: dict[tuple[int, int], float] = {}
        self.mute: set[int] = set()
        self.stalled: dict[int, int] = {}  # board: bits of its error
        self.clears = self.commands = 0
        self._behind_s = np.zeros((BOARDS, MOTORS))

    def receive(self, identifier: int, data: bytes) -> None:
        self.commands += identifier & 0xF80 == COMMAND
        if identifier & 0xF80 == CONFIG and data[:2] == bytes([3, 0xA4]):
            self.clears += 1
            self.stalled.pop((identifier & 0x7F) - BASE, None)
            self._behind_s[:] = 0.0
        super().receive(identifier, data)

    def move(self, elapsed_s: float) -> None:
        before = self.angle.copy()
        super().move(elapsed_s)
        for at, degrees in self.obstacle.items():
            self.angle[at] = min(self.angle[at], degrees)
        for board in self.stalled:
            self.angle[board] = before[board]
        gap, moved = np.abs(self.target - before), np.abs(self.angle - before)
        stuck = (gap > STALL_DEGREES) & (moved < 0.1 * np.minimum(gap, SPEED * elapsed_s))
        self._behind_s = np.where(stuck, self._behind_s + elapsed_s, 0.0)
        for board, motor in np.argwhere(self._behind_s > STALL_S).tolist():
            self.stalled.setdefault(board, 1 << (2 + 4 * motor))

    def report(self, board: int) -> None:
        if board in self.mute:
            return
        super().report(board)
        if board in self.stalled:
            self.send(ERROR + BASE + board, bytes([0xEE, 1, self.stalled[board]]))
