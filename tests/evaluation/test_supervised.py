"""A supervised rollout beside a rig that coasts: where a takeover begins, what a hand-back is measured from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from dexhil.control.executor import ExecutorConfig
from dexhil.control.takeover import HumanCommand, Jump, jump
from dexhil.evaluation import supervised
from dexhil.evaluation.supervised import Supervised, run_supervised
from dexhil.robots.poses import IDENTITY
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF, ActionChunk, Observation, Step
from tests.hardware.test_equal_commands import HZ, PerfectRig

AS_THEY_ARE = ExecutorConfig(4, fade_s=0.0)
HELD = HumanCommand(IDENTITY.copy(), np.full(SPEC.hand_dof, 0.3))


class CoastingRig(PerfectRig):
    """Goes at most `step` rad towards each action, and no farther on before it is at rest. Keeps what it was asked."""

    def __init__(self, step: float = 0.02) -> None:
        super().__init__()
        self.asked: list[np.ndarray] = []
        self.rests = [self.command.copy()]
        self.commands = [self.command.copy()]
        self._step = step
        self.stopped = 0

    def stop(self) -> None:
        self.stopped += 1

    @property
    def resting_point(self) -> np.ndarray:
        return self.rests[-1]

    def apply(self, action: np.ndarray) -> np.ndarray:
        self.asked.append(action.copy())
        change = np.clip((action - self.command) / 2, -self._step, self._step)
        self.command = (self.command + change).astype(np.float32)
        self.commands.append(self.command)
        self.rests.append(self.command + np.clip(action - self.command, -np.abs(change), np.abs(change)))
        return self.command


class Onward:
    """Moves the arm's first joint and a finger on and on, from where the robot is."""

    def __init__(self, rig: PerfectRig, step: float = 0.01) -> None:
        self._rig, self.step = rig, np.zeros(SPEC.action_dim, np.float32)
        self.step[[0, ARM_DOF]] = step

    def infer(self, observation: Observation, *, seed: int) -> ActionChunk:
        return ActionChunk(self._rig.command + np.arange(1, 17)[:, None] * self.step, observation.timestamp)


class Person:
    """Shows what `shows` says of each step, None: only watches."""

    cube_to_ee, reasons, authority, blend = IDENTITY, ["wanted to"], "both", 0.0

    def __init__(self, shows: Callable[[int], HumanCommand | None]) -> None:
        self._shows, self._step = shows, -1

    def tick(self, rest: np.ndarray) -> HumanCommand | None:
        self._step += 1
        return self._shows(self._step)


def supervise(
    rig: PerfectRig, shows: Callable[[int], HumanCommand | None], steps: int, drift: float = 0.01
) -> tuple[Supervised, list[Step]]:
    recorded: list[Step] = []
    outcome = run_supervised(
        cast(Any, rig), Onward(rig, drift), Person(shows), seed=0, max_seconds=steps / HZ, record=recorded.append,
        executor=AS_THEY_ARE,
    )  # fmt: skip
    return outcome, recorded


def test_a_takeover_of_a_robot_in_motion_begins_where_it_would_come_to_rest():
    rig = CoastingRig()
    outcome, _ = supervise(rig, lambda step: HELD if step >= 10 else None, 20)
    assert rig.stopped == 1  # at the end of a rollout
    assert np.abs(rig.rests[10] - rig.commands[10]).max() > 0.005
    assert outcome.engaged[0].max < 1e-5
    for asked in rig.asked[10:]:
        np.testing.assert_allclose(asked, rig.rests[10], atol=1e-5)


def test_what_a_person_asks_for_does_not_depend_on_how_fast_the_robot_follows():
    def shows(step: int) -> HumanCommand:
        gone = min(max(step - 5, 0) * 0.02, 0.1)
        return HumanCommand(np.array([gone, 0, -gone, 1, 0, 0, 0.0]), np.full(SPEC.hand_dof, 0.3 + 3 * gone))

    slow, fast = CoastingRig(0.005), CoastingRig(10.0)
    for rig in (slow, fast):
        supervise(rig, shows, 30, drift=0.0)
    assert np.abs(slow.commands[10] - fast.commands[10]).max() > 0.02
    np.testing.assert_allclose(slow.asked, fast.asked, atol=1e-5)


def test_a_hand_back_is_measured_from_where_the_robot_would_have_come_to_rest():
    def shows(step: int) -> HumanCommand | None:
        moving = HumanCommand(np.array([0.01 * step, 0, 0, 1, 0, 0, 0.0]), np.full(SPEC.hand_dof, 0.3))
        return moving if step < 12 else None

    rig = CoastingRig()
    outcome, recorded = supervise(rig, shows, 20)
    released, rest = outcome.released[0], rig.rests[12]
    assert np.abs(rest - rig.commands[12]).max() > 0.005
    assert released.asked.max == pytest.approx(jump(rest, recorded[12].policy_action).max)
    assert released.executed.max == pytest.approx(jump(rig.commands[12], rig.commands[13]).max)
    assert released.asked.max != pytest.approx(released.executed.max)


def test_a_person_is_taken_to_hold_still_for_half_a_second(monkeypatch: pytest.MonkeyPatch):
    played: list[int] = []

    def play(state: Any, still: list[HumanCommand], *more: Any) -> Jump:
        played.append(len(still))
        return Jump(0.0, 0.0)

    monkeypatch.setattr(supervised, "take_over_jump", play)
    supervise(CoastingRig(), lambda step: HELD if step >= 5 else None, 10)
    assert played == [HZ / 2]


@pytest.mark.parametrize(("authority", "policys"), [("arm", slice(ARM_DOF, None)), ("hand", slice(0, ARM_DOF))])
def test_the_policy_keeps_commanding_what_the_person_does_not_take(monkeypatch, authority: str, policys: slice):
    monkeypatch.setattr(Person, "authority", authority)
    _, recorded = supervise(PerfectRig(), lambda step: HELD if step >= 5 else None, 20)
    for step in recorded[7:]:
        assert step.is_intervention
        np.testing.assert_allclose(step.action[policys], step.policy_action[policys], atol=1e-6)


def test_a_blended_takeover_has_the_policys_part_of_the_hand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Person, "blend", 1.0)
    _, recorded = supervise(PerfectRig(), lambda step: HELD if step >= 5 else None, 20)
    for step in recorded[7:]:
        np.testing.assert_allclose(step.action[ARM_DOF:], step.policy_action[ARM_DOF:], atol=1e-6)


def test_every_takeover_and_hand_back_is_in_the_outcome_once():
    bounds = [5, 8, 14, 15, 20]
    outcome, recorded = supervise(CoastingRig(), lambda step: HELD if 5 <= step < 8 or 14 <= step < 15 else None, 20)
    persons = [5 <= step < 8 or step == 14 for step in range(20)]
    assert [step.is_intervention for step in recorded] == persons
    assert outcome.control == tuple(
        (begin / HZ, end / HZ, "person" if persons[begin] else "policy")
        for begin, end in zip([0, *bounds[:-1]], bounds, strict=True)
    )
    assert (len(outcome.engaged), len(outcome.released)) == (2, 2)
    assert (outcome.human_seconds, outcome.watch_seconds, outcome.seconds) == (4 / HZ, 16 / HZ, 20 / HZ)
    assert (outcome.success, outcome.failure) == (False, "out of time")


def test_what_a_hand_back_executes_at_first_is_the_policys_newest_plan():
    """Planned from where the person left the robot, not from where the policy last had it."""
    rig = PerfectRig()
    outcome, recorded = supervise(
        rig,
        lambda step: (
            HumanCommand(np.array([0.01 * min(step, 9), 0, 0, 1, 0, 0, 0.0]), HELD.q_hand) if step < 15 else None
        ),
        20,
    )
    assert outcome.released
    assert all(step.is_commanded for step in recorded)
    np.testing.assert_allclose(recorded[15].action, recorded[14].action + Onward(rig).step, atol=1e-5)
