"""One control path: the same policy, latency and observations give the same commands in simulation and on a robot."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import numpy as np
import pytest

from dexhil.control.executor import ExecutorConfig
from dexhil.control.guard import Box
from dexhil.control.safety import SafetySettings
from dexhil.control.takeover import HumanCommand
from dexhil.evaluation.rollout import run_trial
from dexhil.evaluation.supervised import run_supervised
from dexhil.robots.poses import IDENTITY
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF, ActionChunk, Observation, Step
from dexhil.settings import from_values
from hardware.runtime.control import Phase
from hardware.runtime.policy_process import Question, Report
from hardware.runtime.session import Observer
from hardware.settings import PolicyConfig, RatesConfig
from tests.hardware.fakes import Bench, observation

HZ, SEED, STEPS = 20.0, 5, 60
GRID = 180  # of all rates, 1/s
TAKEN, GIVEN_BACK = 25, 35  # steps
FREE = Box(np.full(3, -9.0), np.full(3, 9.0), table_z=-9.0)
LIMITLESS = SafetySettings(
    FREE, velocity_fraction=1.0, arm_acceleration=1e5, arm_jerk=1e8, hand_acceleration=1e5, hand_jerk=1e8,
    position_margin=0.0, soft_start_s=0.0,
)  # fmt: skip


class SeededPolicy:
    """Wanders around home as the seed says, from a prefix where one is given. Keeps what it was asked."""

    checkpoint_id = "seeded"

    def __init__(self) -> None:
        self.asked: list[tuple[int, np.ndarray | None, int]] = []

    def infer(
        self, observation: Observation, *, seed: int, prefix: np.ndarray | None = None, delay: int = 0
    ) -> ActionChunk:
        self.asked.append((seed, prefix, delay))
        rng = np.random.default_rng(seed)
        rows = SPEC.home + 0.1 + np.cumsum(rng.uniform(-0.01, 0.01, (16, SPEC.action_dim)), axis=0)
        if prefix is not None:
            rows[:delay] = prefix[:delay]
        return ActionChunk(rows.astype(np.float32), observation.timestamp)


class PerfectRig:
    """Is where it is commanded to be."""

    spec, control_hz, horizon_s = SPEC, HZ, STEPS / HZ

    def __init__(self) -> None:
        self.command = SPEC.home.copy()

    def __getattr__(self, name: str) -> Any:  # what a rig can do besides
        return lambda *_, **__: False

    @property
    def resting_point(self) -> np.ndarray:
        return self.command

    def observe(self) -> Observation:
        return observation(self.command)

    def apply(self, action: np.ndarray) -> np.ndarray:
        self.command = np.array(action, np.float32)
        return self.command


class StillPerson:
    """Takes over at TAKEN, holds still, and lets go at GIVEN_BACK."""

    cube_to_ee, reasons, authority = IDENTITY, ["wanted to"], "both"
    blend = 0.0

    def __init__(self) -> None:
        self.step = -1

    def tick(self, rest: np.ndarray) -> HumanCommand | None:
        self.step += 1
        here = HumanCommand(IDENTITY.copy(), SPEC.home[ARM_DOF:].astype(np.float64))
        return here if TAKEN <= self.step < GIVEN_BACK else None


class NoPerson(StillPerson):
    def tick(self, rest: np.ndarray) -> HumanCommand | None:
        return None


def simulated(config: ExecutorConfig, latency: int, *, takeover: bool) -> tuple[list[Step], SeededPolicy]:
    policy, steps = SeededPolicy(), []
    run_supervised(
        cast(Any, PerfectRig()), policy, StillPerson() if takeover else NoPerson(), seed=SEED, max_seconds=STEPS / HZ,
        record=steps.append, executor=config, latency_steps=latency,
    )  # fmt: skip
    return steps, policy


class Robot:
    """Control and observer on a clock of the test, a policy that answers `latency` steps after each question, and what
    was recorded.
    """

    def __init__(self, config: PolicyConfig, latency: int, *, arm_hz: float, hand_hz: float) -> None:
        rates = RatesConfig(HZ, arm_hz, hand_hz)
        self.bench, self.policy, self.steps = Bench(LIMITLESS, rates, config), SeededPolicy(), []
        self.control = self.bench.control
        self.observer = Observer(self.control, self, self)  # type: ignore[arg-type]
        self._coming: deque[tuple[float, Question]] = deque()
        self._latency, self._rates, self._began = latency, rates, self.bench.now + 1.0
        self.step = self.steps.append

    def ask(self, question: Question) -> None:
        self._coming.append((self.bench.now + self._latency / HZ - 1e-9, question))

    def run(self, *, takeover: bool) -> None:
        self.at(-1)
        self.control.request(Phase.RUNNING)
        self.control.tick(self.bench.now)
        self.observer.begin(self.bench.now, "wander", SEED)
        per_step, per_hand, per_arm = (round(GRID / hz) for hz in (HZ, self._rates.hand_hz, self._rates.arm_hz))
        for index in range(STEPS * per_step + 1):
            self.at(index)
            if takeover and index == TAKEN * per_step:
                self.bench.operator.value = True
            if takeover and index == GIVEN_BACK * per_step - 1:  # the observer's next question knows of it
                self.bench.operator.value = False
                self.control.tick(self.bench.now)
            if index % per_step == 0:
                self.observer.tick(self.bench.now)
            self._deliver()
            if index % per_hand == 0:
                self.control.tick(self.bench.now, index % per_arm == 0)

    def at(self, index: int) -> None:
        self.bench.now = self._began + index / GRID

    def _deliver(self) -> None:
        while self._coming and self._coming[0][0] <= self.bench.now:
            _, question = self._coming.popleft()
            chunk = self.policy.infer(question.observation, seed=question.seed, **question.request.options)
            self.bench.report = Report(self.bench.now, question.request, chunk.actions, identity={"x": 1})


def assert_same_questions(robot: SeededPolicy, sim: SeededPolicy) -> None:
    for (seed, prefix, delay), (its_seed, its_prefix, its_delay) in zip(robot.asked, sim.asked, strict=False):
        assert (seed, delay) == (its_seed, its_delay)
        assert (prefix is None) == (its_prefix is None)
        if prefix is not None and its_prefix is not None:
            np.testing.assert_allclose(prefix, its_prefix, atol=1e-5)
    assert abs(len(robot.asked) - len(sim.asked)) <= 1  # the last may still be under way


@pytest.mark.parametrize("handover", ["replace", "rtc", "sync"])
@pytest.mark.parametrize("latency", [0, 3])
@pytest.mark.parametrize("takeover", [False, True])
def test_a_robot_is_commanded_as_in_a_supervised_rollout(handover: str, latency: int, takeover: bool):
    config = from_values(PolicyConfig, {"handover": handover, "stale_s": 1.0}, "policy")
    steps, policy = simulated(config, latency, takeover=takeover)
    robot = Robot(config, latency, arm_hz=HZ, hand_hz=HZ)
    robot.run(takeover=takeover)
    assert_same_questions(robot.policy, policy)
    assert len(robot.steps) == len(steps)
    for ours, theirs in zip(robot.steps, steps, strict=True):
        np.testing.assert_allclose(ours.action, theirs.action, atol=1e-4)
        np.testing.assert_allclose(ours.policy_action, theirs.policy_action, atol=1e-4)
        assert (ours.is_intervention, ours.is_commanded) == (theirs.is_intervention, theirs.is_commanded)
    if takeover:
        corrected = steps[TAKEN:GIVEN_BACK]
        assert all(step.is_intervention for step in corrected)
        assert all(np.isfinite(step.policy_action).all() for step in corrected)  # the policy is asked meanwhile
        waiting = steps[GIVEN_BACK : GIVEN_BACK + latency]
        assert not any(step.is_commanded for step in waiting)


@pytest.mark.parametrize("handover", ["replace", "rtc", "sync"])
@pytest.mark.parametrize("latency", [0, 2, 4])
def test_at_the_rates_of_the_rig_too_and_without_a_person_as_where_it_is_scored(handover: str, latency: int):
    """Arm 30 and hand 90 a second: compared where the clocks of all loops meet, ten times a second."""
    config = from_values(PolicyConfig, {"handover": handover, "stale_s": 1.0}, "policy")
    rig, policy, commands = PerfectRig(), SeededPolicy(), []
    rig.apply = lambda action: commands.append(np.array(action)) or PerfectRig.apply(rig, action)
    run_trial(cast(Any, rig), policy, "wander", SEED, executor=config, latency_steps=latency)
    robot = Robot(config, latency, arm_hz=30.0, hand_hz=90.0)
    robot.run(takeover=False)
    assert_same_questions(robot.policy, policy)
    ours = np.array([step.action for step in robot.steps])
    np.testing.assert_allclose(ours[::2], commands[::2], atol=1e-4)
