"""What every device is to the control loop. NumPy only; a driver imports its own package where it is used.

A driver keeps its newest reading in a slot that its own thread or process fills, so that `read` never blocks. Times are
`time.monotonic()` seconds of this machine; a device's own clock is mapped to it by the driver. Poses are [7]: m,
quaternion w-x-y-z.
"""

from __future__ import annotations

import dataclasses
from typing import Generic, Protocol, TypeVar

import numpy as np

Value = TypeVar("Value")
Other = TypeVar("Other")


class DeviceError(OSError):
    """A device that is missing, silent or broken; the message names it, what happened and what to do."""


@dataclasses.dataclass(frozen=True)
class Stamped(Generic[Value]):
    """A reading. Its age is judged by the reader: see `hardware.runtime.watch`.

    Attributes:
        value: the last good one where `valid` is False.
        t_device: s, when it was measured.
        t_received: s, when it arrived.
        seq: counts readings from 1.
        valid: False where the device said that the value cannot be trusted (a lost tag, a silent servo).
    """

    value: Value
    t_device: float
    t_received: float
    seq: int
    valid: bool = True

    def with_value(self, value: Other) -> Stamped[Other]:
        """The reading with what follows from its value."""
        return Stamped(value, self.t_device, self.t_received, self.seq, self.valid)


@dataclasses.dataclass(frozen=True)
class Health:
    """How a device is.

    Attributes:
        ok: whether it works now.
        message: what is wrong and what to do, "" where nothing is.
    """

    ok: bool
    message: str = ""


@dataclasses.dataclass(frozen=True)
class ArmState:
    """What an arm measures.

    Attributes:
        q: [7] rad.
        dq: [7] rad/s.
        pose_base_ee: [7].
    """

    q: np.ndarray
    dq: np.ndarray
    pose_base_ee: np.ndarray


@dataclasses.dataclass(frozen=True)
class OperatorState:
    """What a person asks for now, with keys or buttons.

    Attributes:
        engage: held or toggled, the person wants control.
        events: since the last read, in order: "success", "failure", "discard", "estop", "clear_estop", "start", "quit".
        authority: of what the person wants control, see `dexhil.control.takeover`.
    """

    engage: bool
    events: tuple[str, ...] = ()
    authority: str = "both"


class Device(Protocol[Value]):
    """What every device does.

    Attributes:
        name: as in the config, in every message about it.
        period_s: s between its readings.
    """

    name: str
    period_s: float

    def connect(self) -> None:
        """Opens the device and waits for its first reading.

        Raises:
            DeviceError: there is none; with the remedy.
        """

    def read(self) -> Stamped[Value] | None:
        """The newest reading, at once; None before the first."""

    def health(self) -> Health:
        """How it is, at once."""
        ...

    def stop(self) -> None:
        """To rest, and released. May be called again, and at any time; never raises for a device that is gone."""


class Actuator(Device[Value], Protocol[Value]):
    """A device that moves.

    Attributes:
        joint_names: those of `target`, in its order; a rig compares them with its robot's.
    """

    joint_names: tuple[str, ...]

    def command(self, target: np.ndarray, t_execute: float, epoch: int) -> np.ndarray:
        """Sends joint targets. Those of an epoch before the newest one seen are dropped.

        Args:
            target: [n] rad.
            t_execute: s, monotonic, when they are to be reached.
            epoch: of the plan that they belong to.

        Returns:
            [n] rad, what was commanded after the device's own limits, which is recorded; of dropped targets what holds.

        Raises:
            DeviceError: the device cannot be commanded.
        """
        ...


Arm = Actuator[ArmState]
Hand = Actuator[np.ndarray]  # q_hand [m] rad, the actuated joints in the order of the RobotSpec
Camera = Device[np.ndarray]  # uint8 [H, W, 3] RGB
Tracker = Device[np.ndarray]  # pose_camera_cube [7]
Glove = Device[np.ndarray]  # key points [21, 3] m, order and frame of dexhil.retargeting.keypoints
Operator = Device[OperatorState]
