"""Franka Research 3 through franky-control, whose 1 kHz loop is a C++ thread: joint impedance to streamed targets.

Between two commands the setpoint moves on a straight line to its target, its velocity fed forward. The robot has no
watchdog: without commands it holds the last target, and the safety layer decides. A failure (reflex, lost connection)
ends control; somebody must find out why, and `connect` builds it up again from where the arm then is. The library does
not limit streamed targets (its velocity limits are another robot's, and it refuses higher ones): `command` does, with
FR3's. The mass of the hand is set in the robot's Desk, as the end effector's.
"""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dexhil.robots import arm_ik
from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.schema import ARM_DOF
from hardware.devices.base import ArmState, DeviceError
from hardware.devices.streams import ActuatorStream, Sample

LOG = logging.getLogger(__name__)

STIFFNESS = (100.0, 100.0, 100.0, 100.0, 75.0, 150.0, 50.0)  # Nm/rad and Nm s/rad: those of the deoxys controllers
DAMPING = (20.0, 20.0, 20.0, 20.0, 7.5, 15.0, 5.0)
TORQUE_NM = (40.0, 40.0, 40.0, 40.0, 10.0, 10.0, 10.0)  # external torque and force that count as a collision
FORCE_N = (60.0, 60.0, 60.0, 25.0, 25.0, 25.0)
REALTIME_KERNEL = Path("/sys/kernel/realtime")


def setpoint(
    begin: np.ndarray, end: np.ndarray, t_begin: float, t_end: float, now: float
) -> tuple[np.ndarray, np.ndarray]:
    """Joints [7] rad and velocities [7] rad/s at `now` on the way from `begin` to `end`; at rest after `t_end`."""
    if now >= t_end:
        return end, np.zeros_like(end)
    velocity = (end - begin) / (t_end - t_begin)
    return begin + velocity * max(now - t_begin, 0.0), velocity


class FR3(ActuatorStream[ArmState]):
    """The arm, its readings `ArmState`.

    Args:
        host: of the robot.
        stiffness: [7] Nm/rad.
        damping: [7] Nm s/rad.
        torque_nm: [7] Nm, see TORQUE_NM.
        force_n: [6] N and Nm, the same.
        realtime: whether the kernel must be a real-time one; None: where it is. On others control runs too, but a busy
            machine can miss the robot's deadline, which ends control.
    """

    reopens = False

    def __init__(
        self, *, host: str, name: str = "arm", stiffness: Sequence[float] = STIFFNESS,
        damping: Sequence[float] = DAMPING, torque_nm: Sequence[float] = TORQUE_NM, force_n: Sequence[float] = FORCE_N,
        realtime: bool | None = None, period_s: float = 0.01, silent_s: float = 0.1, connect_s: float = 10.0,
    ) -> None:  # fmt: skip
        spec, arm = FR3_DEXHAND021, slice(ARM_DOF)
        super().__init__(
            name, period_s, spec.joint_names[arm], spec.lower[arm], spec.upper[arm], spec.max_velocity[arm],
            silent_s=silent_s, connect_s=connect_s,
            remedy=f"see the robot's Desk at {host}: unlocked, FCI active, no error, one client; then connect again",
        )  # fmt: skip
        self._host, self._realtime = host, realtime
        self._gains = np.array(stiffness, np.float64), np.array(damping, np.float64)
        self._thresholds = list(torque_nm), list(force_n)
        self._robot: Any = None
        self._tracker: Any = None
        self._robot_time = -1.0
        self._lock = threading.Lock()
        self._line = (np.zeros(ARM_DOF), np.zeros(ARM_DOF), 0.0, 0.0)

    def _open(self) -> None:
        franky = self._load("franky", "franky-control")
        config = franky.RealtimeConfig.Enforce if self._kernel_is_realtime() else franky.RealtimeConfig.Ignore
        self._robot = franky.Robot(self._host, realtime_config=config)
        if self._robot.has_errors and not self._robot.recover_from_errors():
            raise DeviceError(self._message("its error cannot be cleared from here"))
        self._robot.set_collision_behavior(*self._thresholds)
        q = np.array(self._robot.current_joint_positions)
        with self._lock:
            self._line = q, q, 0.0, 0.0
        self._tracker = franky.JointImpedanceTracker(
            self._robot, stiffness=self._gains[0], damping=self._gains[1],
            lower_joint_limits=self.lower, upper_joint_limits=self.upper,
        )  # fmt: skip
        self._robot_time = -1.0

    def _kernel_is_realtime(self) -> bool:
        if self._realtime is not None:
            return self._realtime
        if REALTIME_KERNEL.is_file() and REALTIME_KERNEL.read_text().strip() == "1":
            return True
        LOG.warning("%s: this kernel is not real-time; a busy machine may end the control of the robot", self.name)
        return False

    def _close(self) -> None:
        tracker, self._tracker, self._robot = self._tracker, None, None
        if tracker is not None and tracker.is_running:
            tracker.stop()

    def _poll(self) -> Sample[ArmState] | None:
        self._wait_period()
        self._robot.poll_motion()  # raises what ended control, if something did
        if not self._robot.is_in_control:
            raise DeviceError(self._message("control has ended"))
        with self._lock:
            q_target, dq_target = setpoint(*self._line, time.monotonic())
        self._tracker.set_target(q_target, dq_target)
        state = self._robot.state
        robot_time = state.time.to_sec()
        if robot_time == self._robot_time:
            return None  # nothing new from the robot: it becomes silent
        self._robot_time = robot_time
        q = np.array(state.q)
        # by when it came: libfranka itself ends control where states come late, and a robot's clock may run slowly
        return Sample(ArmState(q, np.array(state.dq), arm_ik.forward(q)), time.monotonic())

    def _joints(self, value: ArmState) -> np.ndarray:
        return value.q

    def _send(self, target: np.ndarray, t_execute: float) -> np.ndarray:
        now = time.monotonic()
        with self._lock:
            begin, _ = setpoint(*self._line, now)
            shortest = float((np.abs(target - begin) / self.max_velocity).max())
            self._line = begin, target, now, max(t_execute, now + shortest)
        return target
