"""Inspire RH56 hand: Modbus RTU through pymodbus, six motors, 0 rad is open. Source: the vendor's register table."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from hardware.devices.base import DeviceError
from hardware.devices.serial_hand import SerialHand

NAMES = ("little", "ring", "middle", "index", "thumb_bend", "thumb_rotation")  # in the order of the registers
RANGES_RAD = (1.47, 1.47, 1.47, 1.47, 0.6, 1.308)  # from open to closed
FULL = 1000
CLEAR, ANGLE_SET, FORCE_SET, SPEED_SET, ANGLE, ERROR = 1004, 1486, 1498, 1522, 1546, 1606  # registers
ERRORS = ("stall", "overheating", "overcurrent", "motor fault", "communication")  # bits of a motor's byte


class Inspire(SerialHand):
    """q_hand: [6] rad. port: such as /dev/ttyUSB0. speed, force: 0 to 1000 of what the motors can."""

    def __init__(
        self, *, port: str, name: str = "hand", device_id: int = 1, baudrate: int = 115200, speed: int = FULL,
        force: int = 500, ranges_rad: Sequence[float] = RANGES_RAD, max_velocity: float = 3.0, period_s: float = 1 / 50,
        clear_s: float = 1.0, silent_s: float = 0.3, connect_s: float = 5.0,
    ) -> None:  # fmt: skip
        self._ranges = np.array(ranges_rad, np.float64)
        super().__init__(
            name, period_s, NAMES, np.zeros(len(NAMES)), self._ranges, np.full(len(NAMES), max_velocity),
            silent_s=silent_s, connect_s=connect_s, clear_s=clear_s,
            remedy=f"check the hand's power, the cable at {port}, its permissions, id {device_id} and {baudrate} baud",
        )  # fmt: skip
        self._port, self._device, self._baudrate = port, device_id, baudrate
        self._settings = ((SPEED_SET, speed), (FORCE_SET, force))
        self._client: Any = None

    def _open(self) -> None:
        client = self._load("pymodbus.client", "pymodbus")
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # what it would log is in our messages
        self._client = client.ModbusSerialClient(self._port, baudrate=self._baudrate, timeout=0.1, retries=0)
        if not self._client.connect():
            raise DeviceError(self._message(f"no serial port {self._port}"))
        for register, value in self._settings:
            self._store(register, [value] * len(NAMES))

    def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _numbers(self, register: int, count: int) -> list[int] | None:
        from pymodbus.exceptions import ModbusException

        try:
            reply = self._client.read_holding_registers(register, count=count, device_id=self._device)
        except ModbusException:
            return None
        return None if reply.isError() or len(reply.registers) != count else reply.registers

    def _store(self, register: int, values: list[int]) -> bool:
        from pymodbus.exceptions import ModbusException

        try:
            return not self._client.write_registers(register, values, device_id=self._device).isError()
        except ModbusException:
            return False

    def _steps(self, q_hand: np.ndarray) -> np.ndarray:
        return np.rint(FULL * (1.0 - q_hand / self._ranges)).astype(int)

    def _encoded(self, q_hand: np.ndarray) -> np.ndarray:
        return self._ranges * (1.0 - self._steps(q_hand) / FULL)

    def _write(self, q_hand: np.ndarray) -> bool:
        return self._store(ANGLE_SET, self._steps(q_hand).tolist())

    def _read(self) -> np.ndarray | None:
        steps = self._numbers(ANGLE, len(NAMES))
        if steps is None or max(steps) > FULL + 50:
            return None
        return self._ranges * (1.0 - np.array(steps) / FULL)

    def _look(self) -> str:
        words = self._numbers(ERROR, len(NAMES) // 2)
        if words is None:
            return ""
        status = [byte for word in words for byte in (word & 0xFF, word >> 8)]
        named = zip(NAMES, status, strict=True)
        return ", ".join(
            f"{' and '.join(error for bit, error in enumerate(ERRORS) if bits & 1 << bit)} of {name}"
            for name, bits in named
            if bits
        )

    def _clear(self) -> None:
        self._store(CLEAR, [1])
