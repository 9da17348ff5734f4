"""LEAP hand: 16 Dynamixel servos on one serial line, protocol 2.0, through dynamixel-sdk.

Joints in the order of the servos' ids: index, middle, ring (side, MCP, PIP, DIP each), thumb. Zero is the flat, open
hand, half a turn of the servos. Source: the control table of ROBOTIS' X series; limits and gains of the hand's authors.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from hardware.devices.base import DeviceError
from hardware.devices.serial_hand import SerialHand

IDS = tuple(range(16))
NAMES = tuple(
    f"{finger}_{joint}" for finger in ("index", "middle", "ring", "thumb") for joint in ("side", "mcp", "pip", "dip")
)
LOWER = np.array([-1.047, -0.314, -0.506, -0.366] * 3 + [-0.349, -0.47, -1.20, -1.34])
UPPER = np.array([1.047, 2.23, 1.885, 2.042] * 3 + [2.094, 2.443, 1.90, 1.88])
TICK = 2.0 * np.pi / 4096
OPEN_TICKS = 2048
# Control table: address, bytes.
OPERATING_MODE, TORQUE, HARDWARE_ERROR = (11, 1), (64, 1), (70, 1)
GAIN_D, GAIN_I, GAIN_P, GOAL_CURRENT = (80, 2), (82, 2), (84, 2), (102, 2)
GOAL, POSITION = (116, 4), (132, 4)
CURRENT_BASED_POSITION = 5
ATTEMPTS = 5  # for a packet of the set-up: on a full line some get lost
ERRORS = {0: "input voltage", 2: "overheating", 3: "encoder", 4: "electric shock", 5: "overload"}  # bits


class Leap(SerialHand):
    """q_hand: [16] rad. A servo that shuts down for overload or heat is rebooted; on `stop` all go limp.

    Args:
        port: such as /dev/ttyUSB0.
        current_ma: the most that a servo draws, which limits its force.
        clear_s: s between two reboots at least.
    """

    def __init__(
        self, *, port: str, name: str = "hand", baudrate: int = 4_000_000, current_ma: int = 350, gain_p: int = 600,
        gain_i: int = 0, gain_d: int = 200, max_velocity: float = 6.0, period_s: float = 1 / 90, clear_s: float = 2.0,
        silent_s: float = 0.2, connect_s: float = 5.0,
    ) -> None:  # fmt: skip
        super().__init__(
            name, period_s, NAMES, LOWER, UPPER, np.full(len(IDS), max_velocity), silent_s=silent_s,
            connect_s=connect_s, clear_s=clear_s,
            remedy=f"check the hand's power, the cable at {port} and its permissions, ids 0 to 15 and {baudrate} baud",
        )  # fmt: skip
        self._port_name, self._baudrate = port, baudrate
        self._settings = ((GOAL_CURRENT, current_ma), (GAIN_P, gain_p), (GAIN_I, gain_i), (GAIN_D, gain_d))
        self._port: Any = None
        self._failed: list[int] = []

    def _open(self) -> None:
        sdk = self._load("dynamixel_sdk", "dynamixel-sdk")
        self._sdk, self._port, self._packets = sdk, sdk.PortHandler(self._port_name), sdk.PacketHandler(2.0)
        if not self._port.setBaudRate(self._baudrate):
            raise DeviceError(self._message(f"the port does not take {self._baudrate} baud"))
        self._goals = sdk.GroupSyncWrite(self._port, self._packets, *GOAL)
        self._positions, self._hardware_errors = self._group(POSITION), self._group(HARDWARE_ERROR)
        for servo in IDS:
            self._set_up(servo)

    def _group(self, entry: tuple[int, int]) -> Any:
        group = self._sdk.GroupSyncRead(self._port, self._packets, *entry)
        for servo in IDS:
            group.addParam(servo)
        return group

    def _set_up(self, servo: int) -> None:
        position = self._value(servo, POSITION)
        self._set(servo, TORQUE, 0)
        self._set(servo, OPERATING_MODE, CURRENT_BASED_POSITION)
        for entry, value in self._settings:
            self._set(servo, entry, value)
        self._set(servo, GOAL, position)
        self._set(servo, TORQUE, 1)

    def _value(self, servo: int, entry: tuple[int, int]) -> int:
        read = {1: self._packets.read1ByteTxRx, 4: self._packets.read4ByteTxRx}[entry[1]]
        return self._ask(servo, lambda: read(self._port, servo, entry[0]))[0]

    def _set(self, servo: int, entry: tuple[int, int], value: int) -> None:
        packets = self._packets
        write = {1: packets.write1ByteTxRx, 2: packets.write2ByteTxRx, 4: packets.write4ByteTxRx}[entry[1]]
        self._ask(servo, lambda: write(self._port, servo, entry[0], value))

    def _ask(self, servo: int, exchange: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        result = self._sdk.COMM_SUCCESS
        for _ in range(ATTEMPTS):
            answer = exchange()
            result = answer[-2]
            if result == self._sdk.COMM_SUCCESS:
                return answer
        text = self._packets.getTxRxResult(result)
        raise DeviceError(self._message(f"servo {servo} ({NAMES[servo]}) does not answer: {text}"))

    def _close(self) -> None:
        port, self._port = self._port, None
        if port is None or not port.is_open:
            return
        try:
            for servo in IDS:
                self._packets.write1ByteTxOnly(port, servo, TORQUE[0], 0)
        finally:
            port.closePort()

    def _encoded(self, q_hand: np.ndarray) -> np.ndarray:
        return np.rint(q_hand / TICK) * TICK

    def _write(self, q_hand: np.ndarray) -> bool:
        self._goals.clearParam()
        for servo, ticks in zip(IDS, np.rint(q_hand / TICK).astype(int) + OPEN_TICKS, strict=True):
            self._goals.addParam(servo, int(ticks).to_bytes(4, "little", signed=True))
        return self._goals.txPacket() == self._sdk.COMM_SUCCESS

    def _read(self) -> np.ndarray | None:
        if self._positions.txRxPacket() != self._sdk.COMM_SUCCESS:
            return None
        ticks = np.array([self._positions.getData(servo, *POSITION) for servo in IDS], np.uint32).astype(np.int32)
        return (ticks - OPEN_TICKS) * TICK

    def _look(self) -> str:
        if self._hardware_errors.txRxPacket() != self._sdk.COMM_SUCCESS:
            return ""
        status = {servo: self._hardware_errors.getData(servo, *HARDWARE_ERROR) for servo in IDS}
        self._failed = [servo for servo, bits in status.items() if bits]
        return ", ".join(
            f"{' and '.join(name for bit, name in ERRORS.items() if status[servo] & 1 << bit)} of {NAMES[servo]}"
            for servo in self._failed
        )

    def _clear(self) -> None:
        for servo in self._failed:
            self._packets.reboot(self._port, servo)
        raise DeviceError(self._message(f"{self._errors}; rebooting"))
