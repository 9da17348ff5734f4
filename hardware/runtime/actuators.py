"""The only writer to arm and hand."""

import numpy as np

from dexhil.robots.spec import RobotSpec
from dexhil.schema import ARM_DOF
from hardware.devices.base import Arm, DeviceError, Hand
from hardware.runtime.watch import DeviceWatch


class Actuators:
    """Arm and hand of one robot. sent: float32 [A] rad, what they were last commanded, after their own limits."""

    def __init__(
        self, spec: RobotSpec, arm: Arm, hand: Hand, *, arm_hz: float, hand_hz: float, watch: DeviceWatch
    ) -> None:
        self._spec, self._watch, self.sent = spec, watch, spec.home.copy()
        self._arm = ("arm", arm, slice(0, ARM_DOF), 1.0 / arm_hz)
        self._hand = ("hand", hand, slice(ARM_DOF, None), 1.0 / hand_hz)

    def command(self, command: np.ndarray, now: float, arm_due: bool, epoch: int) -> None:
        """Sends `command` [A] rad, to be reached a period of each device later; one that refuses is lost."""
        for name, device, part, period_s in (self._arm, self._hand) if arm_due else (self._hand,):
            if name in self._watch.lost:
                continue
            try:
                self.sent[part] = device.command(command[part], now + period_s, epoch)
            except DeviceError as error:
                self._watch.lose(now, name, str(error))

    def measured(self) -> np.ndarray | None:
        """float32 [A] rad, within the joints' ends; None before the first readings."""
        arm, hand = self._arm[1].read(), self._hand[1].read()
        if arm is None or hand is None:
            return None
        measured = np.concatenate([arm.value.q, hand.value])
        return np.clip(measured, self._spec.lower, self._spec.upper).astype(np.float32)
