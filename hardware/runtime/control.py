"""One tick of control: who commands, through the takeover state machine and the safety layer, to the actuators.

No threads and no clock of its own: `hardware.runtime.session` calls `tick` at the hand's rate, tests with any times.
It is the only writer to the actuators. Everything that it reads is there already: a tick never waits.
"""

import dataclasses
import enum
import functools
import queue
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from dexhil.control.executor import Due
from dexhil.control.jumps import STILL_S, take_over_jump
from dexhil.control.safety import SafetyLayer
from dexhil.control.takeover import Decision, HumanCommand, Inputs, Jump, Mode, advance, executed, start
from dexhil.robots import arm_ik
from dexhil.robots.spec import RobotSpec
from dexhil.schema import ARM_DOF
from hardware.devices.base import Arm, Camera, Hand, OperatorState
from hardware.runtime.actuators import Actuators
from hardware.runtime.changes import Changes
from hardware.runtime.homing import HOMING_SPEED, WayHome
from hardware.runtime.messages import Messages
from hardware.runtime.policy_process import Report
from hardware.runtime.policy_source import PolicySource
from hardware.runtime.watch import DeviceWatch
from hardware.settings import PolicyConfig, RatesConfig
from hardware.teleop.teleop import Teleop

ARRIVED_RAD = 0.01
RESYNC_RAD = 0.1  # an episode that begins with the robot this far from its command goes on from where the robot is
RECENT = 64  # snapshots that are kept, for whoever records
RATES, POLICY = RatesConfig(), PolicyConfig()


class Phase(enum.Enum):
    """OFF: actuators are commanded nothing. IDLE: they hold. HOMING: slowly to the home pose. RUNNING: an episode."""

    OFF = "off"
    IDLE = "idle"
    HOMING = "homing"
    RUNNING = "running"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What the last tick did.

    Attributes:
        command: float32 [A] rad.
        policy_action: float32 [A] rad, NaN where no policy was asked.
        is_commanded: policy or person commands: the robot does not just hold.
        holding: why it holds, "" where it does not.
    """

    t: float
    phase: Phase
    mode: Mode
    command: np.ndarray
    policy_action: np.ndarray
    is_intervention: bool
    epoch: int
    is_commanded: bool = False
    holding: str = ""


class Control:
    """Devices in, commands out.

    Attributes:
        watch: what is wrong with devices, and what others found wrong.
        messages: for the person and the record.
        policy: whom the observer asks for requests.
        events: what the person pressed, for whoever runs the episodes.
        changes: of control.
    """

    def __init__(
        self, spec: RobotSpec, arm: Arm, hand: Hand, cameras: Mapping[str, Camera], teleop: Teleop, safety: SafetyLayer,
        newest_report: Callable[[], Report | None] | None = None, rates: RatesConfig = RATES,
        policy: PolicyConfig = POLICY,
    ) -> None:  # fmt: skip
        self.spec, self.arm, self.hand, self.cameras = spec, arm, hand, dict(cameras)
        self.teleop, self.safety, self.rates = teleop, safety, rates
        self.messages = Messages(safety.log)
        self.watch = DeviceWatch({"arm": arm, "hand": hand}, self.cameras, safety.settings, self.messages)
        self.actuators = Actuators(spec, arm, hand, arm_hz=rates.arm_hz, hand_hz=rates.hand_hz, watch=self.watch)
        self.policy = PolicySource(newest_report, spec.action_dim, rates.policy_hz, policy)
        self.events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.changes = Changes()
        self._requests: queue.SimpleQueue[Phase | None] = queue.SimpleQueue()
        self._phase, self._state = Phase.OFF, start(spec.home)
        self._way_home = WayHome(spec, HOMING_SPEED * safety.arm.limits.velocity, 1.0 / rates.hand_hz)
        self._no_action = np.full(spec.action_dim, np.nan, np.float32)
        self.latest = Snapshot(-np.inf, Phase.OFF, Mode.HOLD, spec.home.copy(), self._no_action, False, 0)
        self._recent = deque([self.latest], maxlen=RECENT)

    def request(self, phase: Phase) -> None:
        """Has the next tick change the phase; from any thread."""
        self._requests.put(phase)

    def request_log(self) -> None:
        """Has the next tick put out the interventions that are still going on; from any thread."""
        self._requests.put(None)

    def since(self, t: float) -> Snapshot:
        """The first tick at or after `t`, monotonic s, or the latest; from any thread."""
        return next((snapshot for snapshot in list(self._recent) if snapshot.t >= t), self.latest)

    def tick(self, now: float, arm_due: bool = True) -> Snapshot:
        """One control step at `now`, monotonic s. arm_due: the arm is commanded too."""
        asks = self._asks(now)
        self._obey(now)
        wrong = self.watch.holding(now, at_work=self._phase is not Phase.OFF)
        if self._phase is Phase.OFF:
            self._follow_measured(now)
            return self._remember(now, Mode.HOLD, None, "off")
        holding = "idle" if self._phase is Phase.IDLE else wrong
        engage = asks.engage and self._phase is Phase.RUNNING
        human, lack = self._person(now, engage, holding)
        due = self._policy_due(now, watching=human is not None)
        # a person who asks for control and cannot be given it wants the policy to stop, too
        nobody = bool(holding) or (engage and human is None)
        decision, before, rest = self._decide(asks, engage, human, None if nobody else self._wanted(due))
        command, coasting = self._execute(decision, before, now, arm_due)
        if self._phase is Phase.RUNNING:
            still = self._plays_still(human, rest) if decision.mode is Mode.ENGAGING and human is not None else None
            self.changes.note(now, before, decision, due, rest=rest, coasting=coasting, command=command, still=still)
        self._account(decision, command)
        self.messages.put_out(now)
        why = holding or lack or (self.safety.blocked if self._phase is Phase.HOMING else "")
        return self._remember(now, decision.mode, due, why)

    def _asks(self, now: float) -> OperatorState:
        asks, fault = self.teleop.asks(now)
        self.watch.report("operator", f"operator {fault}" if fault else "")
        for event in asks.events:
            if event == "estop":
                self.safety.estop("a person pressed the emergency stop")
                self.messages.say(now, "EMERGENCY STOP: the robot holds; clear it when it is safe")
            elif event == "clear_estop":
                if self.watch.take_back(now):
                    self._follow_measured(now)
                self.safety.clear(now)
            else:
                self.events.put(event)
        return asks

    def _obey(self, now: float) -> None:
        while not self._requests.empty():
            phase = self._requests.get()
            if phase is None:
                self.messages.put_out(now, all_of_them=True)
                continue
            if phase is Phase.RUNNING:
                self._begin(now)
            else:
                self.policy.end()
            if phase is Phase.HOMING:
                self._way_home.start(self.safety.resting_point()[:ARM_DOF])
            self._phase = phase

    def _begin(self, now: float) -> None:
        measured = self.actuators.measured()
        if measured is not None and np.abs(measured - self.safety.command).max() > RESYNC_RAD:
            self._follow_measured(now)
        self.changes.begin()
        self._state = dataclasses.replace(start(self.safety.command), epoch=self._state.epoch + 1, mode=Mode.RELEASING)
        self.policy.begin()
        self.policy.rest(self.safety.resting_point())

    def _person(self, now: float, engage: bool, holding: str) -> tuple[HumanCommand | None, str]:
        if engage and self._state.mode not in (Mode.ENGAGING, Mode.HUMAN):
            self.teleop.anchor(arm_ik.forward(self.safety.resting_point()[:ARM_DOF].astype(np.float64)))
        human, lack = (None, "") if not engage or holding else self.teleop.shows(now)
        if lack:
            self.messages.note(now, "watchdog:person", lack)
        return human, lack

    def _policy_due(self, now: float, *, watching: bool) -> Due | None:
        if watching:
            self.policy.watch()
        due = self.policy.due(now)
        if self._phase is Phase.RUNNING and self.policy.fault and not watching:
            self.messages.note(now, "watchdog:policy", self.policy.fault)
        return due

    def _wanted(self, due: Due | None) -> np.ndarray | None:
        if self._phase is not Phase.HOMING:
            return None if due is None else due.action
        if self._state.mode is not Mode.AUTONOMOUS:
            self._way_home.start(self.safety.resting_point()[:ARM_DOF])
        return np.concatenate([self._way_home.step(), self.spec.home[ARM_DOF:]]).astype(np.float32)

    def _decide(
        self, asks: OperatorState, engage: bool, human: HumanCommand | None, wanted: np.ndarray | None
    ) -> tuple[Decision, Mode, np.ndarray]:
        """The takeover machine's decision, the mode before it, and the command [A] that it starts from."""
        mode = self._state.mode
        if mode is not Mode.HUMAN and (human is not None or mode is not Mode.AUTONOMOUS):
            # whoever takes over starts from where the robot comes to rest, not from the middle of a motion
            self._state = executed(self._state, self.safety.resting_point())
        rest = self._state.command
        stopped = bool(self.safety.estopped)
        inputs = Inputs(
            engage=engage, human=human, policy_action=wanted, policy_epoch=self._state.epoch, estop=stopped,
            clear_estop=not stopped, authority=asks.authority, blend=self.teleop.blend,
        )  # fmt: skip
        self._state, decision = advance(self._state, inputs, self.spec, self.teleop.cube_to_ee)
        return decision, mode, rest

    def _execute(self, decision: Decision, before: Mode, now: float, arm_due: bool) -> tuple[np.ndarray, np.ndarray]:
        """(what the robot was commanded [A] rad, what it had been commanded on its way to a stop)."""
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
        self.actuators.command(command, now, arm_due, self._state.epoch)
        if self._phase is Phase.HOMING and np.abs(command - self.spec.home).max() < ARRIVED_RAD:
            self._phase = Phase.IDLE
        return self.actuators.sent.copy(), coasting

    def _plays_still(self, human: HumanCommand, rest: np.ndarray) -> Callable[[], Jump]:
        people = [human] * round(STILL_S * self.rates.hand_hz)
        return functools.partial(take_over_jump, self._state, people, rest, self.spec, self.teleop.cube_to_ee)

    def _account(self, decision: Decision, command: np.ndarray) -> None:
        # a person's inverse kinematics go on from their own last solution, so that limits do not make it drift
        self._state = executed(self._state, decision.command if decision.is_intervention else command)
        if not decision.is_intervention and decision.mode is not Mode.AUTONOMOUS:
            self.policy.rest(self.safety.resting_point())

    def _follow_measured(self, now: float) -> None:
        measured = self.actuators.measured()
        if measured is not None:
            self.safety.reset(measured, now)
            self.actuators.sent = measured.copy()
            self._state = executed(self._state, measured)

    def _remember(self, now: float, mode: Mode, due: Due | None, holding: str) -> Snapshot:
        human = mode in (Mode.ENGAGING, Mode.HUMAN)
        acts = mode is Mode.AUTONOMOUS and due is not None and not due.starved
        planned = self._no_action if due is None else np.asarray(due.planned, np.float32)
        self.latest = Snapshot(
            now, self._phase, mode, self.actuators.sent.copy(), planned, human, self._state.epoch, human or acts,
            holding,
        )  # fmt: skip
        self._recent.append(self.latest)
        return self.latest
