"""DexHand021 by its CAN-FD frames (1M/5M) over python-can, any of its interfaces.

Six boards of two motors each; ids are a message's base + the hand's base + the board. Angles are int16 in 0.01 degrees,
little-endian. Source: the vendor's published client (see third_party/dexhand021.md); `frames` below is the whole
protocol, and the emulator speaks the other side of it.
"""

import logging
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from dexhil.names import check_known
from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.schema import ARM_DOF
from hardware.devices.base import DeviceError
from hardware.devices.streams import ActuatorStream, Sample

LOG = logging.getLogger(__name__)

COMMAND, CONFIG, CONFIG_REPLY, FEEDBACK, ERROR = 0x100, 0x00, 0x80, 0x180, 0x600
BASES = {"left": 0x01, "right": 0x07}
BOARDS = (  # the two motors of each board, by the actuators' names in the RobotSpec
    ("thumb_dip", "thumb_mcp"), ("thumb_rotation", "spread"), ("index_pip", "index_mcp"),
    ("middle_pip", "middle_mcp"), ("ring_pip", "ring_mcp"), ("little_pip", "little_mcp"),
)  # fmt: skip
POSITION_MODE, BOTH_MOTORS = 0x44, 0x03
CLEAR_ERROR = bytes([0x03, 0xA4])
ERROR_MARK, NUM_FEEDBACK_BYTES = 0xEE, 16
ERRORS = ("current overload", "hall sensor", "stall", "parameter")  # bits of an error byte, 4 per motor
CENTIDEGREE = float(np.radians(0.01))
ASK_S = 0.3  # between two requests for reports from a board that is silent; one that was off has forgotten the first
PLAUSIBLE_RAD = 0.5  # so far outside the limits no joint can be: a broken frame

ACTUATORS = FR3_DEXHAND021.joint_names[ARM_DOF:]
COLUMNS = np.array([[ACTUATORS.index(name) for name in board] for board in BOARDS])  # [6, 2]


def command_frame(angles: np.ndarray) -> bytes:
    """Payload of a board's command: its two motors' angles [2] rad."""
    return struct.pack("<BB2h", POSITION_MODE, BOTH_MOTORS, *np.rint(angles / CENTIDEGREE).astype(int).tolist())


def feedback_frame_period(period_s: float) -> bytes:
    """Payload of the configuration that makes a board report every `period_s`, in steps of 10 ms."""
    return bytes([0x03, 0x74, 0x01, max(1, round(period_s / 0.01)), 0x01])


def angles_of_feedback(payload: bytes) -> np.ndarray | None:
    """The two joint angles [2] rad in a board's feedback; None where it is no whole frame."""
    if len(payload) < NUM_FEEDBACK_BYTES:
        return None
    return np.array(struct.unpack_from("<2h", payload, 12)) * CENTIDEGREE


def errors_of(payload: bytes, board: int) -> str:
    """What a board's error message says, "" where it is none."""
    if len(payload) < 3 or payload[0] != ERROR_MARK:
        return ""
    names = [f"{error} of {motor}" for motor in BOARDS[board] for error in ERRORS]  # in the order of their bits
    found = [name for bit, name in enumerate(names) if payload[2] & 1 << bit]
    return ", ".join(found) or f"unknown error {payload[2]:#04x} of board {board}"


class DexHand021(ActuatorStream[np.ndarray]):
    """q_hand: [12] rad in the order of FR3_DEXHAND021.

    A stalled motor latches an error: it is cleared, with a line in the log, and the health says so until it is gone.

    Args:
        bus: keywords of `can.Bus`, such as {"interface": "socketcan", "channel": "can0"}, with the bit timing where the
            interface sets it; {"interface": "zlg"} is the vendor's USB adapter.
        side: left or right.
        period_s: of commands and reports.
        clear_s: s between two clearings at least.
    """

    def __init__(
        self, *, bus: Mapping[str, Any], name: str = "hand", side: str = "right", period_s: float = 0.01,
        clear_s: float = 1.0, silent_s: float = 0.1, connect_s: float = 3.0,
    ) -> None:  # fmt: skip
        check_known("side", side, BASES)
        spec, hand = FR3_DEXHAND021, slice(ARM_DOF, None)
        super().__init__(
            name, period_s, ACTUATORS, spec.lower[hand], spec.upper[hand], spec.max_velocity[hand],
            silent_s=silent_s, connect_s=connect_s,
            remedy=f"check the hand's power, the CAN-FD cable, the bus ({dict(bus)}) and the side ({side})",
        )  # fmt: skip
        self._settings, self._base, self._clear_s = {"fd": True, **bus}, BASES[side], clear_s
        self._can: Any = None
        self._reset()

    def _reset(self) -> None:
        self._angles = np.full((len(BOARDS), 2), np.nan)
        self._heard = np.full(len(BOARDS), -np.inf)
        self._errors: dict[int, str] = {}
        self._cleared = np.full(len(BOARDS), -np.inf)
        self._opened, self._asked, self._reported, self._broken = time.monotonic(), 0.0, 0.0, 0

    def _open(self) -> None:
        can = self._load("can", "python-can")
        self._reset()
        self._can = self._bus(can)

    def _bus(self, can: Any) -> Any:
        if self._settings.get("interface") != "zlg":
            return can.Bus(**self._settings)
        from hardware.devices.zlg_can import ZlgBus

        try:
            return ZlgBus(**{key: value for key, value in self._settings.items() if key != "interface"})
        except ImportError:
            raise DeviceError(
                f"{self.name}: interface zlg needs the vendor's SDK; see third_party/dexhand021.md, or use socketcan"
            ) from None

    def _close(self) -> None:
        bus, self._can = self._can, None
        if bus is not None:
            bus.shutdown()

    def _write(self, message: int, board: int, payload: bytes) -> None:
        import can

        identifier = message + self._base + board
        self._can.send(can.Message(arbitration_id=identifier, data=payload, is_fd=True, is_extended_id=False))

    def _send(self, target: np.ndarray, t_execute: float) -> np.ndarray:
        for board, columns in enumerate(COLUMNS):
            self._write(COMMAND, board, command_frame(target[columns]))
        return np.rint(target / CENTIDEGREE) * CENTIDEGREE

    def _poll(self) -> Sample[np.ndarray] | None:
        message = self._can.recv(timeout=self.period_s)
        now = time.monotonic()
        if message is not None:
            self._handle(message.arbitration_id, bytes(message.data), now)
        self._ask_silent(now)
        self._clear_errors(now)
        if now - self._reported < self.period_s:
            return None
        silent = [board for board in range(len(BOARDS)) if now - max(self._heard[board], self._opened) > self._silent_s]
        fresh = self._heard > self._reported
        if not fresh.all() and not (silent and fresh.any()):
            return None  # without a fresh frame at all this becomes silence
        self._reported = now
        return self._sample(silent)

    def _handle(self, arbitration_id: int, payload: bytes, now: float) -> None:
        message, board = arbitration_id & 0xF80, (arbitration_id & 0x7F) - self._base
        if not 0 <= board < len(BOARDS):
            return  # the other hand, or somebody else's
        if message == FEEDBACK:
            self._heed(board, angles_of_feedback(payload), now)
        elif message == ERROR:
            text = errors_of(payload, board)
            if text and self._errors.get(board) != text:
                LOG.warning("%s: %s", self.name, text)
                self._errors[board] = text
        elif message == CONFIG_REPLY and payload[:4] == CLEAR_ERROR + b"\x00\x01":
            self._errors.pop(board, None)

    def _heed(self, board: int, angles: np.ndarray | None, now: float) -> None:
        """Takes a board's angles [2] rad, unless they cannot be."""
        lower, upper = self.lower[COLUMNS[board]] - PLAUSIBLE_RAD, self.upper[COLUMNS[board]] + PLAUSIBLE_RAD
        if angles is None or (angles < lower).any() or (angles > upper).any():
            self._broken += 1
            return
        self._angles[board], self._heard[board] = angles, now

    def _sample(self, silent: list[int]) -> Sample[np.ndarray]:
        whole = np.isfinite(self._angles).all()
        q_hand = np.empty(len(ACTUATORS))
        q_hand[COLUMNS] = self._angles
        names = ["/".join(BOARDS[board]) for board in silent]
        fault = f"no report from the boards of {', '.join(names)} ({self._broken} broken frames)" if names else ""
        return Sample(q_hand if whole else None, float(self._heard.min()), fault, ", ".join(self._errors.values()))

    def _ask_silent(self, now: float) -> None:
        if now - self._asked < ASK_S:
            return
        self._asked = now
        for board in np.flatnonzero(now - self._heard > self._silent_s):
            self._write(CONFIG, int(board), feedback_frame_period(self.period_s))

    def _clear_errors(self, now: float) -> None:
        for board in self._errors:
            if now - self._cleared[board] >= self._clear_s:
                LOG.warning("%s: clearing: %s", self.name, self._errors[board])
                self._write(CONFIG, board, CLEAR_ERROR)
                self._cleared[board] = now
