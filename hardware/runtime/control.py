"""One tick of control: who commands, through the takeover state machine and the safety layer, to the actuators.

No threads and no clock of its own: `hardware.runtime.session` calls `tick` at the hand's rate, tests with any times.
It is the only writer to the actuators. Everything that it reads is there already: a tick never waits.
"""

from __future__ import annotations

import dataclasses
import enum
import queue
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dexhil.control.takeover import Decision, HumanCommand, Inputs, Jump, Mode, advance, executed, jump, start
from dexhil.robots import arm_ik
from dexhil.robots.spec import RobotSpec
from dexhil.schema import ARM_DOF
from hardware.devices.base import Actuator, Arm, Camera, Device, DeviceError, Hand, OperatorState
from hardware.runtime.homing import WayHome
from hardware.runtime.plans import Handover, Plan
from hardware.runtime.policy_process import Report
from hardware.runtime.safety import SafetyLayer, check_device
from hardware.teleop.teleop import Teleop

HOMING_SPEED = 0.15  # share of the velocity limits
ARRIVED_RAD = 0.01
LOST_S = 1.0  # an actuator that was silent for so long is lost: it needs a new connection, and a person's consent
TELL_AGAIN_S = 5.0  # a person is not told the same again sooner; the log has it all
RESYNC_RAD = 0.1  # an episode that begins with the robot this far from its command goes on from where the robot is
_NUMBER = re.compile(r"[\d.]+")  # two messages that differ in numbers alone say the same


class Phase(enum.Enum):
    """OFF: actuators are told nothing. IDLE: they hold. HOMING: slowly to the home pose. RUNNING: an episode."""

    OFF = "off"
    IDLE = "idle"
    HOMING = "homing"
    RUNNING = "running"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Rates in 1/s; policy_hz is that of a plan's rows. stale_s: a plan older than this is not followed: the policy's
    watchdog. fade_s: see `Handover`.
    """

    arm_hz: float = 30.0
    hand_hz: float = 90.0
    policy_hz: float = 20.0
    stale_s: float = 0.4
    fade_s: float = 0.15


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What the last tick did. command, policy_action: float32 [A] rad; policy_action is NaN where no policy was asked.

    holding: why the robot holds, "" where it does not.
    """

    t: float
    phase: Phase
    mode: Mode
    command: np.ndarray
    policy_action: np.ndarray
    is_intervention: bool
    epoch: int
    holding: str = ""


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of control. kind: "takeover" or "release".

    asked: the new command, before limits, against where the robot would have come to rest. felt: the executed command
    against the way there, one tick on.
    """

    t: float
    kind: str
    asked: Jump
    felt: Jump


class Control:
    """Devices in, commands out.

    faults: what is wrong now, name -> message; outside: what others found wrong, replaced as a whole; either holds the
    robot. lost: actuators that need a new connection and a person's consent. events: what the person pressed, for
    whoever runs the episodes. told: (t, message) for the person. interventions: of the safety layer, as they end.
    newest_report: reads the policy's, which is None while it starts; None where there is no policy.
    """

    def __init__(
        self,
        spec: RobotSpec,
        arm: Arm,
        hand: Hand,
        cameras: Mapping[str, Camera],
        teleop: Teleop,
        safety: SafetyLayer,
        newest_report: Callable[[], Report | None] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.spec, self.arm, self.hand, self.cameras = spec, arm, hand, dict(cameras)
        self.teleop, self.safety, self.settings = teleop, safety, settings or Settings()
        self.faults: dict[str, str] = {}
        self.outside: dict[str, str] = {}
        self.events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.told: deque[tuple[float, str]] = deque(maxlen=1000)
        self.interventions: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.changes: queue.SimpleQueue[Change] = queue.SimpleQueue()
        self.lost: dict[str, str] = {}
        self._requests: queue.SimpleQueue[Phase | None] = queue.SimpleQueue()
        self._newest_report = newest_report
        self._told_at: dict[tuple[str, str], float] = {}
        self._noted: dict[str, tuple[str, str]] = {}
        self._phase = Phase.OFF
        self._of_person = False
        self._state = start(spec.home)
        speed = HOMING_SPEED * safety.arm.limits.velocity
        self._way_home = WayHome(spec, speed, 1.0 / self.settings.hand_hz)
        self._handover = Handover(self.settings.fade_s, self.settings.policy_hz)
        self._sent = spec.home.copy()
        nothing = np.full(spec.action_dim, np.nan, np.float32)
        self._no_action = nothing
        self.latest = Snapshot(-np.inf, Phase.OFF, Mode.HOLD, self._sent, nothing, False, 0)

    def request(self, phase: Phase) -> None:
        """Has the next tick change the phase; from any thread."""
        self._requests.put(phase)

    def request_log(self) -> None:
        """Has the next tick put out the interventions that are still going on; from any thread."""
        self._requests.put(None)

    def tick(self, now: float, arm_due: bool = True) -> Snapshot:
        """One control step at `now`, monotonic s. arm_due: the arm is told too."""
        asks = self._asks(now)
        self._obey(now)
        holding = self._holding(now)
        if self._phase is Phase.OFF:
            self._follow_measured(now)
            return self._remember(now, Mode.HOLD, self._no_action, False, "off")
        engage = asks.engage and self._phase is Phase.RUNNING
        if engage and self._state.mode not in (Mode.ENGAGING, Mode.HUMAN):
            self.teleop.anchor(arm_ik.forward(self.safety.resting_point()[:ARM_DOF].astype(np.float64)))
        human, lack = (None, "") if not engage or holding else self.teleop.shows(now)
        if lack:
            self._note(now, "watchdog:person", lack)
        # a person who asks for control and cannot be given it wants the policy to stop, too
        nobody = bool(holding) or (engage and human is None)
        action, asked = (None, self._no_action) if nobody else self._policy_action(now)
        decision, mode_before, rest = self._decide(engage, human, action, asks)
        command, coasting = self._execute(decision, mode_before, now, arm_due)
        self._remember_change(now, decision, mode_before, rest, command, coasting)
        # a person's inverse kinematics go on from their own last solution, so that limits do not make it drift
        self._state = executed(self._state, decision.command if decision.is_intervention else command)
        self._take_interventions(now)
        of_policy = asked if decision.mode is Mode.AUTONOMOUS and self._phase is Phase.RUNNING else self._no_action
        why = holding or lack or (self.safety.blocked if self._phase is Phase.HOMING else "")
        return self._remember(now, decision.mode, of_policy, decision.is_intervention, why)

    def _asks(self, now: float) -> OperatorState:
        """The person's wish; a device that cannot tell it holds the robot."""
        asks, fault = self.teleop.asks(now)
        self._report_fault("operator", f"operator {fault}" if fault else "")
        for event in asks.events:
            if event == "estop":
                self.safety.estop("a person pressed the emergency stop")
                self._tell(now, "EMERGENCY STOP: the robot holds; clear it when it is safe")
            elif event == "clear_estop":
                self._clear(now)
            else:
                self.events.put(event)
        return asks

    def _clear(self, now: float) -> None:
        """A person says that it is safe: lost actuators that work again are taken back, where they are now."""
        for name, device in (("arm", self.arm), ("hand", self.hand)):
            health = device.health()
            if name in self.lost and health.ok and not check_device(device, now, self.safety.settings)[1]:
                del self.lost[name]
                self._follow_measured(now)
            elif name in self.lost:
                self._tell(now, f"{name} {device.name}: still lost: {health.message or self.lost[name]}")
        self.safety.clear(now)

    def _obey(self, now: float) -> None:
        while not self._requests.empty():
            phase = self._requests.get()
            if phase is None:
                self._take_interventions(now, all_of_them=True)
                continue
            if phase is Phase.RUNNING:
                self._begin(now)
            elif phase is Phase.HOMING:
                self._way_home.start(self.safety.resting_point()[:ARM_DOF])
            self._phase = phase

    def _begin(self, now: float) -> None:
        measured = self._measured()
        if measured is not None and np.abs(measured - self.safety.command).max() > RESYNC_RAD:
            self._follow_measured(now)
        self._of_person = False
        self._state = dataclasses.replace(start(self.safety.command), epoch=self._state.epoch + 1, mode=Mode.RELEASING)

    def _holding(self, now: float) -> str:
        """Why nobody may command now, "" where somebody may."""
        for name, device in (("arm", self.arm), ("hand", self.hand)):
            silent_s, fault = self._check(name, name, device, now)
            if fault and silent_s > LOST_S and self._phase is not Phase.OFF:
                self._lose(now, name, fault)
        for name, camera in self.cameras.items():
            self._check(f"camera_{name}", "camera", camera, now)
        wrong = self.lost | self.faults | self.outside
        for cause, message in wrong.items():
            self._note(now, f"watchdog:{cause}", message)
        return "idle" if self._phase is Phase.IDLE else next(iter(wrong.values()), "")

    def _check(self, cause: str, role: str, device: Device[Any], now: float) -> tuple[float, str]:
        """(s since the last reading, what is wrong with the device, "" for nothing); it is kept under `cause`."""
        reading, fault = check_device(device, now, self.safety.settings)
        if fault:
            fault = f"{role if device.name == role else f'{role} {device.name}'} {fault}"
        self._report_fault(cause, fault)
        return (0.0 if reading is None else now - reading.t_received), fault

    def _report_fault(self, name: str, message: str) -> None:
        if message:
            self.faults[name] = message
        else:
            self.faults.pop(name, None)

    def _policy_action(self, now: float) -> tuple[tuple[np.ndarray, int] | None, np.ndarray]:
        """((command [A] rad for this tick, its epoch) or None, what the policy itself asks for [A])."""
        if self._phase is Phase.HOMING:
            if self._state.mode is not Mode.AUTONOMOUS:
                self._way_home.start(self.safety.resting_point()[:ARM_DOF])
            target = np.concatenate([self._way_home.step(), self.spec.home[ARM_DOF:]]).astype(np.float32)
            return (target, self._state.epoch + 1), self._no_action
        if self._newest_report is None:
            return None, self._no_action
        plan, fault = self._checked_plan(self._newest_report(), now)
        begin = None if self._state.mode is Mode.AUTONOMOUS else self.safety.resting_point()
        found = None if plan is None else self._handover(plan, now + 1.0 / self.settings.arm_hz, begin)
        if plan is not None and found is not None:
            return (found[0], plan.epoch), found[1]
        if self._phase is Phase.RUNNING and self._state.mode not in (Mode.ENGAGING, Mode.HUMAN):
            self._note(now, "watchdog:policy", fault or "policy: its last plan has ended and no new one came")
        return None, self._no_action

    def _checked_plan(self, report: Report | None, now: float) -> tuple[Plan | None, str]:
        """The newest plan, or None and why it is not followed."""
        if report is None or report.plan is None:
            return None, (report.error if report else "") or "policy: no plan yet"
        plan = report.plan
        if plan.actions.ndim != 2 or plan.actions.shape[1] != self.spec.action_dim:
            return None, f"policy: plans {list(plan.actions.shape)}, {self.spec.name} takes [H, {self.spec.action_dim}]"
        if not np.isfinite(plan.actions).all():
            return None, "policy: returned an action that is not finite"
        age = now - plan.t_observed
        if not -self.settings.stale_s < age < self.settings.stale_s:
            return None, f"policy: its last plan is of {age:.2f} s ago (limit {self.settings.stale_s} s)"
        return plan, ""

    def _decide(
        self, engage: bool, human: HumanCommand | None, action: tuple[np.ndarray, int] | None, asks: OperatorState
    ) -> tuple[Decision, Mode, np.ndarray]:
        """The takeover machine's decision, the mode before it, and the command [A] that it starts from."""
        mode = self._state.mode
        if mode is not Mode.HUMAN and (human is not None or mode is not Mode.AUTONOMOUS):
            # whoever takes over starts from where the robot comes to rest, not from the middle of a motion
            self._state = executed(self._state, self.safety.resting_point())
        rest = self._state.command
        inputs = Inputs(
            engage=engage,
            human=human,
            policy_action=None if action is None else action[0],
            policy_epoch=0 if action is None else action[1],
            estop=bool(self.safety.estopped),
            clear_estop=not self.safety.estopped,
            authority=asks.authority,
            blend=self.teleop.blend,
        )
        self._state, decision = advance(self._state, inputs, self.spec, self.teleop.cube_to_ee)
        return decision, mode, rest

    def _execute(self, decision: Decision, before: Mode, now: float, arm_due: bool) -> tuple[np.ndarray, np.ndarray]:
        """(what the robot was told [A] rad, what it had been told on its way to a stop)."""
        coasting = self.safety.coasting(arm_due)
        handed_over = decision.mode is Mode.AUTONOMOUS and before is not Mode.AUTONOMOUS
        # all of these ask for the resting point
        if handed_over or decision.mode in (Mode.HOLD, Mode.ESTOP, Mode.RELEASING, Mode.ENGAGING):
            if decision.mode is Mode.ESTOP:
                self.safety.log.note(now, "estop", self.safety.estopped)
            command = self.safety.brake(arm_due)
        else:
            speed = HOMING_SPEED if self._phase is Phase.HOMING else 1.0
            command = self.safety.limit(decision.command, now, arm_due, speed)
            if self._phase is Phase.HOMING and arm_due and self.safety.blocked:
                self._way_home.turn_back(self.safety.resting_point()[:ARM_DOF])
        if arm_due:
            self._tell_actuator("arm", self.arm, slice(0, ARM_DOF), command, now, 1.0 / self.settings.arm_hz)
        self._tell_actuator("hand", self.hand, slice(ARM_DOF, None), command, now, 1.0 / self.settings.hand_hz)
        if self._phase is Phase.HOMING and np.abs(command - self.spec.home).max() < ARRIVED_RAD:
            self._phase = Phase.IDLE
        return self._sent.copy(), coasting

    def _tell_actuator(
        self, name: str, device: Actuator[Any], part: slice, command: np.ndarray, now: float, period_s: float
    ) -> None:
        if name in self.lost:
            return
        try:
            told = device.command(command[part], now + period_s, self._state.epoch)
        except DeviceError as error:
            self._lose(now, name, str(error))
            return
        self._sent[part] = told

    def _lose(self, now: float, name: str, message: str) -> None:
        if name not in self.lost:
            self.lost[name] = message
            self._tell(now, f"LOST {message}. Once it works again, press clear to go on")

    def _measured(self) -> np.ndarray | None:
        arm, hand = self.arm.read(), self.hand.read()
        if arm is None or hand is None:
            return None
        measured = np.concatenate([arm.value.q, hand.value])
        return np.clip(measured, self.spec.lower, self.spec.upper).astype(np.float32)

    def _follow_measured(self, now: float) -> None:
        """The command becomes what the robot is at, at rest."""
        measured = self._measured()
        if measured is not None:
            self.safety.reset(measured, now)
            self._sent = measured.copy()
            self._state = executed(self._state, measured)

    def _remember_change(
        self, now: float, decision: Decision, before: Mode, rest: np.ndarray, command: np.ndarray, coasting: np.ndarray
    ) -> None:
        if decision.mode is Mode.ENGAGING:
            kind, self._of_person = "takeover", True
        elif decision.mode is Mode.AUTONOMOUS and before is not Mode.AUTONOMOUS and self._of_person:
            kind, self._of_person = "release", False
        else:
            return
        if self._phase is Phase.RUNNING:
            self.changes.put(Change(now, kind, jump(rest, decision.command), jump(coasting, command)))

    def _remember(
        self, now: float, mode: Mode, policy_action: np.ndarray, is_intervention: bool, holding: str
    ) -> Snapshot:
        epoch = self._state.epoch
        self.latest = Snapshot(
            now, self._phase, mode, self._sent.copy(), policy_action, is_intervention, epoch, holding
        )
        return self.latest

    def _take_interventions(self, now: float, *, all_of_them: bool = False) -> None:
        for span in self.safety.log.take(now, all_of_them=all_of_them):
            self.interventions.put(span)

    def _note(self, now: float, cause: str, message: str) -> None:
        """Into the safety log; the person is told once, and again where the message says something else."""
        begins = self.safety.log.note(now, cause, message)
        says = cause, _NUMBER.sub("", message)
        changed = self._noted.get(cause) != says
        self._noted[cause] = says
        if (begins or changed) and now - self._told_at.get(says, -np.inf) > TELL_AGAIN_S:
            self._told_at[says] = now
            self._tell(now, f"the robot holds: {message}")

    def _tell(self, now: float, message: str) -> None:
        self.told.append((now, message))
