"""Devices and policies without hardware, on a clock that the test moves; policies for processes that a test spawns."""

import dataclasses
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from dexhil.control.executor import Request
from dexhil.control.guard import Box
from dexhil.control.safety import SafetyLayer, SafetySettings
from dexhil.robots import arm_ik
from dexhil.robots.poses import IDENTITY
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF, ActionChunk, Observation
from dexhil.settings import from_values
from hardware.devices.base import ArmState, DeviceError, Health, OperatorState, Stamped
from hardware.runtime.control import Control, Phase
from hardware.runtime.policy_process import Report
from hardware.settings import PolicyConfig, RatesConfig
from hardware.teleop.teleop import Teleop

BOX = Box(np.array([0.2, -0.5, 0.0]), np.array([0.85, 0.5, 0.9]))
SETTINGS = SafetySettings(BOX, soft_start_s=0.0)
TICK_S = 1.0 / 90.0
RATES, POLICY = RatesConfig(), PolicyConfig(execute_steps=1)  # a fresh plan at every observation


class FakeDevice:
    """Says `value`, always fresh while `alive`."""

    def __init__(self, name: str, value: Any, clock: Any = time.monotonic, period_s: float = 1 / 30) -> None:
        self.name, self.value, self.clock, self.period_s = name, value, clock, period_s
        self.alive, self.valid, self.connected = True, True, 0
        self._last: Stamped[Any] | None = None

    def connect(self) -> None:
        self.connected += 1

    def read(self) -> Stamped[Any] | None:
        if self.alive:
            seq = 1 if self._last is None else self._last.seq + 1
            self._last = Stamped(self.value, self.clock(), self.clock(), seq, self.valid)
        return self._last

    def health(self) -> Health:
        return Health(self.alive, "" if self.alive else "unplugged; plug it in")

    def stop(self) -> None:
        self.alive = False


class FakeActuator(FakeDevice):
    """Goes half of the way to where it is commanded in every tick, as a real one lags; `broken` makes every command
    fail. commands: all that it was told.
    """

    value: Any

    def __init__(self, name: str, value: Any, clock: Any = time.monotonic) -> None:
        super().__init__(name, value, clock)
        joints = slice(ARM_DOF) if isinstance(value, ArmState) else slice(ARM_DOF, None)
        self.joint_names = SPEC.joint_names[joints]
        self.commands: list[np.ndarray] = []
        self.broken = ""

    def command(self, target: np.ndarray, t_execute: float, epoch: int) -> np.ndarray:
        if self.broken:
            raise DeviceError(f"{self.name}: {self.broken}")
        self.commands.append(np.array(target))
        if isinstance(self.value, ArmState):
            self.value = arm_state((self.value.q + target) / 2)
        else:
            self.value = (self.value + target) / 2
        return np.array(target)


class FakeOperator(FakeDevice):
    """value: whether the person wants control. press: an event, told once."""

    def __init__(self, clock: Any = time.monotonic) -> None:
        super().__init__("pad", False, clock)
        self.pressed: list[str] = []

    def press(self, event: str) -> None:
        self.pressed.append(event)

    def read(self) -> Stamped[OperatorState] | None:
        reading = super().read()
        if reading is None:
            return None
        events, self.pressed = tuple(self.pressed), []
        return dataclasses.replace(reading, value=OperatorState(reading.value, events))


def arm_state(q_arm: np.ndarray) -> ArmState:
    q_arm = np.asarray(q_arm, np.float32)
    return ArmState(q_arm, np.zeros(ARM_DOF, np.float32), arm_ik.forward(q_arm.astype(np.float64)))


class Bench:
    """A control with fake devices. The test moves its clock: `run` ticks at 90 Hz and returns the snapshots."""

    def __init__(
        self, settings: SafetySettings = SETTINGS, rates: RatesConfig = RATES, policy: PolicyConfig = POLICY
    ) -> None:
        self.now = 100.0
        self.ticks = 0
        self.arm = FakeActuator("fr3", arm_state(SPEC.home[:ARM_DOF]), self.clock)
        self.hand = FakeActuator("dexhand", SPEC.home[ARM_DOF:].copy(), self.clock)
        self.camera = FakeDevice("d435", np.zeros((8, 8, 3), np.uint8), self.clock, 1 / 20)
        self.tracker = FakeDevice("cube", IDENTITY.copy(), self.clock)
        self.glove = FakeDevice("glove", SPEC.home[ARM_DOF:].astype(np.float64), self.clock, 1 / 90)
        self.operator = FakeOperator(self.clock)
        self.report: Report | None = Report(self.now, identity={"x": 1})
        self.planning, self.asked = True, deque[Request]()
        self.goal = SPEC.home.copy()
        layer = SafetyLayer(SPEC, settings, arm_hz=30.0, hand_hz=90.0)
        self.control = Control(
            SPEC,
            self.arm,
            self.hand,
            {"scene": self.camera},
            Teleop(self.tracker, self.glove, self.operator, SPEC.hand_dof, settings),
            layer,
            lambda: self.report,
            rates,
            policy,
        )
        self.tick()  # off: the command is what the robot measures

    def clock(self) -> float:
        return self.now

    def observe(self) -> None:
        """Asks where the control wants a plan; the answer, from the present command to `goal`, is there at once."""
        if request := self.control.policy.request(self.now):
            self.asked.append(request)
        if self.planning and self.asked:
            at = self.control.latest.command
            way = np.linspace(0.0, 1.0, 17)[1:, None] * (self.goal - at)
            rows = at + way if np.isfinite(self.goal).all() else np.tile(self.goal, (16, 1))
            self.answer(rows.astype(np.float32))

    def answer(self, actions: np.ndarray | None, error: str = "") -> None:
        """The policy's report on the newest request."""
        self.report = Report(self.now, self.asked.pop(), actions, error, identity={"x": 1})
        self.asked.clear()

    def tick(self) -> Any:
        self.now += TICK_S
        self.ticks += 1
        if self.ticks % 5 == 0:
            self.observe()
        return self.control.tick(self.now, self.ticks % 3 == 0)

    def run(self, seconds: float) -> list[Any]:
        return [self.tick() for _ in range(round(seconds / TICK_S))]

    def start(self, goal: np.ndarray | None = None) -> None:
        """Begins an episode in which the policy moves to `goal`."""
        self.goal = self.goal if goal is None else goal
        self.control.request(Phase.RUNNING)
        self.run(0.1)

    def said(self) -> str:
        return "\n".join(message for _, message in self.control.messages.told)

    def causes(self) -> set[str]:
        """Of all interventions so far."""
        self.control.request_log()
        self.tick()
        found = set()
        while not self.control.messages.interventions.empty():
            found.add(self.control.messages.interventions.get()["cause"])
        return found


def somewhere(rng: np.random.Generator, size: float = 0.3) -> np.ndarray:
    """A pose of the robot near home, within the limits."""
    q = SPEC.home + rng.uniform(-size, size, SPEC.action_dim)
    return np.clip(q, SPEC.lower + 0.05, SPEC.upper - 0.05).astype(np.float32)


@dataclasses.dataclass
class StillPolicy:
    """Plans to stay where the observation is. The name of a file in `flags` changes its mind: nan, hang, raise, die."""

    flags: Path
    checkpoint_id: str = "still/1"

    def infer(self, observation: Observation, *, seed: int = 0, prefix: Any = None, delay: int = 0) -> ActionChunk:
        wanted = {path.name for path in self.flags.iterdir()}
        here = np.concatenate([observation.q_arm, observation.q_hand])
        actions = np.tile(here, (16, 1)).astype(np.float32)
        if prefix is not None:
            actions[:delay] = prefix[:delay]
        if "nan" in wanted:
            actions[3, 2] = np.nan
        if "raise" in wanted:
            raise RuntimeError("out of ideas")
        if "die" in wanted:
            os._exit(3)
        while (self.flags / "hang").exists():
            time.sleep(0.01)
        return ActionChunk(actions, observation.timestamp)


def observation(q: np.ndarray = SPEC.home, instruction: str = "Grab that yellow plushie") -> Observation:
    pose = arm_ik.forward(q[:ARM_DOF].astype(np.float64)).astype(np.float32)
    image = np.zeros((8, 8, 3), np.uint8)
    return Observation({"scene": image}, q[:ARM_DOF].copy(), q[ARM_DOF:].copy(), pose, 0.0, instruction)


@dataclasses.dataclass
class Live:
    """A control with fake devices on the real clock. Its watchdogs are patient: tests share a CPU."""

    control: Control
    arm: FakeActuator
    hand: FakeActuator
    operator: FakeOperator


def live_control(newest: Any = None, handover: str = "replace") -> Live:
    """Control of fake devices on the real clock."""
    patient = dataclasses.replace(SETTINGS, watchdog_min_s=2.0)
    arm, hand = FakeActuator("fr3", arm_state(SPEC.home[:ARM_DOF])), FakeActuator("dexhand", SPEC.home[ARM_DOF:].copy())
    operator = FakeOperator()
    control = Control(
        SPEC,
        arm,
        hand,
        {"scene": FakeDevice("d435", np.zeros((8, 8, 3), np.uint8), period_s=1 / 20)},
        Teleop(
            FakeDevice("cube", IDENTITY.copy()),
            FakeDevice("glove", SPEC.home[ARM_DOF:].astype(np.float64)),
            operator,
            SPEC.hand_dof,
            patient,
        ),
        SafetyLayer(SPEC, patient, arm_hz=30.0, hand_hz=90.0),
        newest,
        policy=from_values(PolicyConfig, {"handover": handover, "stale_s": 2.0}, "policy"),
    )
    return Live(control, arm, hand, operator)


WATCHDOG_S = 0.1 + 2 * TICK_S
STILL_RAD = 1e-6


def still(snapshots: list) -> bool:
    """Whether the commands of these ticks are all the same."""
    commands = np.array([snapshot.command for snapshot in snapshots])
    return bool(np.abs(commands - commands[0]).max() < STILL_RAD)


def moves(bench: Bench, seconds: float = 0.5) -> bool:
    return not still(bench.run(seconds))
