"""A person's devices to what the takeover logic takes: dead-man, key points through the retargeter, cube pose."""

import dataclasses

import numpy as np

from dexhil.control.safety import SafetySettings
from dexhil.control.takeover import HumanCommand
from dexhil.retargeting.runtime import Retargeter
from dexhil.robots.poses import IDENTITY
from hardware.devices.base import Glove, Operator, OperatorState, Stamped, Tracker
from hardware.runtime.watch import check_device
from hardware.teleop.pose_filter import JointFilter


@dataclasses.dataclass
class Teleop:
    """One person's devices; without a retargeter the glove gives hand joints [hand_dof] rad itself."""

    tracker: Tracker
    glove: Glove
    operator: Operator
    hand_dof: int
    safety: SafetySettings
    retargeter: Retargeter | None = None
    cube_to_ee: np.ndarray = dataclasses.field(default_factory=lambda: IDENTITY.copy())
    blend: float = 0.0
    _smooth: JointFilter = dataclasses.field(default_factory=JointFilter)
    _glove_seen: int = 0
    _q_hand: np.ndarray | None = None

    def asks(self, now: float) -> tuple[OperatorState, str]:
        """What the person asks for, and what is wrong with the device that says so: then nothing is engaged."""
        reading, fault = check_device(self.operator, now, self.safety)
        if reading is None:
            return OperatorState(False), f"{self.operator.name}: {fault}"
        if fault:
            return OperatorState(False, reading.value.events), f"{self.operator.name}: {fault}"
        return reading.value, ""

    def anchor(self, pose_base_ee: np.ndarray) -> None:
        """A takeover begins with the end effector at `pose_base_ee` [7]: a pushed device, as a stick, goes on there."""
        anchor = getattr(self.tracker, "anchor", None)
        if anchor is not None:
            anchor(pose_base_ee)

    def shows(self, now: float) -> tuple[HumanCommand | None, str]:
        """What the person shows; None and the reason where a device gives nothing to follow."""
        cube, cube_fault = check_device(self.tracker, now, self.safety)
        glove, glove_fault = check_device(self.glove, now, self.safety)
        for device, fault in ((self.tracker, cube_fault), (self.glove, glove_fault)):
            if fault:
                return None, f"{device.name}: {fault}"
        assert cube is not None
        assert glove is not None
        pose = np.asarray(cube.value, np.float64)
        if pose.shape != (7,) or not np.isfinite(pose).all() or abs(np.linalg.norm(pose[3:]) - 1.0) > 1e-3:
            return None, f"{self.tracker.name}: gives no pose of 7 finite numbers with a unit quaternion"
        q_hand, fault = self._hand(glove)
        return (None, fault) if q_hand is None else (HumanCommand(pose, q_hand), "")

    def _hand(self, reading: Stamped[np.ndarray]) -> tuple[np.ndarray | None, str]:
        if reading.seq == self._glove_seen and self._q_hand is not None:
            return self._q_hand, ""
        try:
            q_hand = reading.value if self.retargeter is None else self.retargeter(reading.value)
        except ValueError as error:
            return None, f"{self.glove.name}: {error}"
        if self.retargeter is not None and not self.retargeter.valid:
            return None, f"{self.glove.name}: {self.retargeter.reason}"
        if np.shape(q_hand) != (self.hand_dof,) or not np.isfinite(q_hand).all():
            hint = "" if self.retargeter else "; key points need a retargeter (teleop.retargeter)"
            return None, f"{self.glove.name}: expected {self.hand_dof} finite joints, got {np.shape(q_hand)}{hint}"
        self._glove_seen = reading.seq
        self._q_hand = self._smooth(np.asarray(q_hand, np.float64), reading.t_device)
        return self._q_hand, ""
