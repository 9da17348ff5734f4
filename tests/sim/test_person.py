"""The simulated person beside a policy that fails: foresight, takeover, correction, hand-back."""

import dataclasses
import itertools

import numpy as np
import pytest

from dexhil.control import takeover
from dexhil.control.executor import ExecutorConfig
from dexhil.evaluation.supervised import run_supervised
from dexhil.schema import ActionChunk
from dexhil.sim.operator import ScriptedOperator
from dexhil.sim.person import Attention, PersonConfig, SimulatedPerson, Watch, foresee
from dexhil.sim.rig import SimRig

AS_THEY_ARE = ExecutorConfig(fade_s=0.0)  # chunks take over at once


class Wanderer:
    """Drifts to one side and closes the hand there: arm-hand discoordination."""

    def __init__(self, rig: SimRig, drift: float = 0.01) -> None:
        self.rig, self.drift = rig, drift

    def infer(self, observation, *, seed):
        change = np.zeros((16, self.rig.spec.action_dim), np.float32)
        change[:, 0], change[:, 7:] = self.drift, 0.03
        return ActionChunk(self.rig.command + np.cumsum(change, axis=0), observation.timestamp)


class Still:
    """Stays where it is."""

    def __init__(self, rig: SimRig) -> None:
        self.rig = rig

    def infer(self, observation, *, seed):
        return ActionChunk(np.repeat(self.rig.command[None], 16, axis=0), observation.timestamp)


class Expert:
    """The scripted operator as a policy that plans one step."""

    def __init__(self, rig: SimRig, seed: int) -> None:
        self.operator = ScriptedOperator(rig, seed=seed)

    def infer(self, observation, *, seed):
        return ActionChunk(self.operator.act()[None], observation.timestamp)


@pytest.fixture(scope="module")
def rig() -> SimRig:
    return SimRig(cameras=())


def supervise(rig, task, seed, config=None, expert=False):
    """(outcome, recorded steps, person) of one rollout."""
    rig.reset(task=task, seed=seed)
    person = SimulatedPerson(rig, seed=seed, config=config)
    steps = []
    policy, plan = (Expert(rig, seed), 1) if expert else (Wanderer(rig), 8)
    outcome = run_supervised(
        rig, policy, person, seed=seed, executor=ExecutorConfig(plan), max_seconds=20.0, record=steps.append
    )
    return outcome, steps, person


def test_a_person_leads_a_robot_that_was_fast_from_where_it_comes_to_rest(rig):
    rig.reset(task="plush", seed=0)
    person = SimulatedPerson(rig, seed=0, config=PersonConfig(late_s=0.4, reaction_s=(0.0, 0.0)))
    away = []

    def watch(who: str) -> None:
        if who == "person" and person._operator is not None:
            shown = person._operator.intent.pose_base_ee[:3]
            away.append(np.linalg.norm(shown - rig.pose_base_ee[:3]))

    outcome = run_supervised(
        rig, Wanderer(rig, drift=0.09), person, seed=0, executor=AS_THEY_ARE, max_seconds=1.5, record=lambda step: None,
        watch=watch,
    )  # fmt: skip
    assert len(away) > 10
    assert away[-1] < 0.02, "the hand is where the person means it to be"
    assert outcome.engaged[0].max < 1e-5


@pytest.mark.parametrize("task", ["plush", "tissue"])
def test_a_failing_policy_is_corrected_without_a_jump(rig, task):
    outcome, steps, person = supervise(rig, task, 0)
    assert outcome.success
    assert person.reasons == ["hand_before_arm"]
    assert [who for *_, who in outcome.control] == ["policy", "person"]
    assert len(outcome.engaged) == 1
    assert outcome.engaged[0].max < 1e-5
    flags = [step.is_intervention for step in steps]
    assert flags == sorted(flags)
    assert outcome.human_seconds == pytest.approx(sum(flags) / 20)
    for step in steps:
        assert np.isfinite(step.policy_action).all()  # the policy is asked while the person acts, too
        step.validate()


@pytest.mark.parametrize(("task", "seed"), [("plush", 1), ("tissue", 700), ("tissue", 702)])
def test_a_policy_that_works_is_left_alone(rig, task, seed):
    outcome, _, person = supervise(rig, task, seed, expert=True)
    assert outcome.success
    assert person.reasons == []
    assert outcome.human_seconds == 0


def test_a_rollout_is_reproduced_by_its_seed(rig):
    first, again, other = (supervise(rig, "tissue", seed)[1] for seed in (2, 2, 3))
    np.testing.assert_array_equal([s.action for s in first], [s.action for s in again])
    assert len(first) != len(other) or not np.array_equal([s.action for s in first], [s.action for s in other])


def test_an_arm_folded_against_its_limits_is_led_back_and_the_policy_goes_on(rig):
    """Left in this posture by a policy, the arm reaches the grasp from no side: a person unfolds it first."""
    folded = np.array([2.0, -0.58, -2.03, -2.66, 0.23, 3.76, -0.76])
    rig.reset(task="plush", seed=3_000_013)
    rig.data.qpos[[rig.model.joint(name).qposadr[0] for name in rig.spec.joint_names[:7]]] = folded
    rig.stop()  # commands what is measured
    person = SimulatedPerson(rig, seed=13)
    outcome = run_supervised(rig, Still(rig), person, seed=13, max_seconds=20.0, record=lambda step: None)
    assert outcome.success
    assert [who for *_, who in outcome.control] == ["policy", "person", "policy", "person"]
    assert abs(rig.joints[0]) < 1.0
    assert max(jump.max for jump in outcome.engaged) < 1e-5


def test_false_alarms_and_hand_backs_happen_as_often_as_asked(rig):
    nervous = PersonConfig(false_alarms_per_s=100.0, reaction_s=(0.0, 0.0), hand_back=1.0)
    outcome, _, person = supervise(rig, "plush", 4, nervous, expert=True)
    assert person.reasons[0] == "false_alarm"
    assert len(person.reasons) > 1  # the person handed back, and took over again
    assert len(outcome.released) >= 1


def test_a_takeover_of_one_tick_has_both_its_jumps(rig, monkeypatch):
    rig.reset(task="plush", seed=4)
    person = SimulatedPerson(rig, seed=4)
    shown = person._devices.show(ScriptedOperator(rig, seed=4).intent)
    ticks = itertools.count()
    monkeypatch.setattr(person, "tick", lambda command: shown if next(ticks) == 5 else None)
    outcome = run_supervised(
        rig, Wanderer(rig), person, seed=4, executor=AS_THEY_ARE, max_seconds=1.0, record=lambda step: None
    )
    assert [who for *_, who in outcome.control] == ["policy", "person", "policy"]
    assert len(outcome.engaged) == len(outcome.released) == 1
    assert outcome.released[0].asked.max == pytest.approx(0.03, abs=0.01)
    assert outcome.released[0].executed.max == pytest.approx(0.03, abs=0.01)
    assert outcome.human_seconds + outcome.watch_seconds == pytest.approx(outcome.seconds)


def test_the_action_is_what_limits_let_through_and_a_hand_back_says_both(rig, monkeypatch):
    """The policy asks for 1 rad at once: 4 rad/s of the hand let through 0.2 in one step of 0.05 s."""
    rig.reset(task="plush", seed=4)
    person, ticks = SimulatedPerson(rig, seed=4), itertools.count()
    shown = person._devices.show(ScriptedOperator(rig, seed=4).intent)
    monkeypatch.setattr(person, "tick", lambda command: shown if 3 <= next(ticks) < 5 else None)
    policy = Still(rig)
    monkeypatch.setattr(policy, "infer", lambda observation, seed: ActionChunk(far, observation.timestamp))
    far = np.repeat(rig.command[None], 16, axis=0)
    far[:, 8] = np.clip(far[:, 8] + 1.0, rig.spec.lower[8], rig.spec.upper[8])
    steps = []
    outcome = run_supervised(rig, policy, person, seed=4, executor=AS_THEY_ARE, max_seconds=0.3, record=steps.append)
    before, first, after = rig.spec.home, steps[0], steps[-1]
    assert first.policy_action[8] == pytest.approx(far[0, 8])
    assert first.action[8] < far[0, 8] - 0.1
    assert np.abs(first.action - before)[7:].max() <= (rig.spec.max_velocity[7:] / 20).max() + 1e-6
    assert outcome.released[0].asked.max > outcome.released[0].executed.max > 0
    assert np.isfinite(after.policy_action).all()


def test_a_takeover_with_a_wrong_anchor_has_a_jump(rig, monkeypatch):
    anchored = takeover._anchor

    def wrong(command, human):
        anchors = anchored(command, human)
        return dataclasses.replace(anchors, hand=anchors.hand + 0.1)

    monkeypatch.setattr(takeover, "_anchor", wrong)
    outcome, _, _ = supervise(rig, "plush", 0)
    assert outcome.engaged[0].max > 0.05


def test_a_person_may_take_the_arm_alone(rig):
    outcome, steps, person = supervise(rig, "plush", 0, PersonConfig(authority="arm"))
    assert person.reasons
    persons = [step for step in steps if step.is_intervention]
    limits = rig.spec.max_velocity[7:] / 20
    followed = [np.abs(step.action - step.policy_action)[7:] for step in persons[2:]]
    assert outcome.human_seconds > 0
    assert np.median([(gap < limits + 0.02).mean() for gap in followed]) == 1.0, "the hand is the policy's"


@pytest.mark.parametrize(
    ("habit", "message"),
    [
        ({"skill": 0}, "skill 0: expected more than 0"),
        ({"foresight": 2}, "foresight 2: expected a fraction from 0 to 1"),
        ({"authority": "legs"}, r"authority 'legs'.*'arm', 'both', 'hand'"),
    ],
)
def test_an_impossible_person_is_refused(habit, message):
    with pytest.raises(ValueError, match=message):
        PersonConfig(**habit)


def test_without_foresight_only_an_empty_hand_tells_of_a_miss():
    watch = Watch(best=0.3, since=0.9, foresees=False)
    closing = dataclasses.replace(WELL, closure=0.8, above=0.0)
    assert foresee("plush", closing, watch, PersonConfig()) == ""
    assert foresee("plush", dataclasses.replace(closing, above=0.1), watch, PersonConfig()) == "poor_contact"


@pytest.mark.parametrize(("foresight", "reason"), [(1.0, "hand_before_arm"), (0.0, "poor_contact")])
def test_foresight_decides_when_a_person_takes_over(rig, foresight, reason):
    outcome, _, person = supervise(rig, "tissue", 0, PersonConfig(foresight=foresight))
    assert outcome.success
    assert person.reasons[0] == reason


WELL = Attention(time_s=1.0, away=0.2, above=0.1, closure=0.0, in_hand=False, moved=0.0, dropped=0.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"closure": 0.8}, "hand_before_arm"),
        ({"closure": 0.8, "away": 0.01, "above": 0.0}, ""),
        ({"above": 0.0}, "wrong_approach"),
        ({"closure": 0.8, "away": 0.01, "above": 0.15}, "poor_contact"),
        ({"closure": 0.8, "away": 0.01, "above": 0.15, "moved": 0.1, "in_hand": True}, ""),
        ({"dropped": 0.1}, "slip"),
        ({"time_s": 3.0}, "no_progress"),
    ],
)
def test_what_a_person_foresees(change, reason):
    assert foresee("plush", dataclasses.replace(WELL, **change), Watch(best=0.3, since=0.9), PersonConfig()) == reason


@pytest.mark.parametrize(("speed", "reason"), [(0.05, ""), (0.005, "no_progress"), (0.0, "no_progress")])
def test_progress_counts_however_many_looks_it_takes(speed, reason):
    watch, reasons = Watch(), []
    for time_s in np.arange(0.0, 3.0, 0.05):
        seen = dataclasses.replace(WELL, time_s=time_s, away=0.3 - speed * time_s)
        reasons.append(foresee("plush", seen, watch, PersonConfig()))
    assert set(reasons) == {"", reason}


def test_patience_ends_late_even_with_progress():
    watch, seen = Watch(best=0.3, since=8.5), dataclasses.replace(WELL, time_s=8.6)
    assert foresee("plush", seen, watch, PersonConfig()) == "late"


@pytest.mark.parametrize(("caught", "takes_over"), [(False, True), (True, False)])
def test_a_policy_that_catches_itself_within_the_reaction_time_is_left_alone(rig, monkeypatch, caught, takes_over):
    rig.reset(task="plush", seed=5)
    person = SimulatedPerson(rig, seed=5, config=PersonConfig(reaction_s=(0.3, 0.3)))
    stuck = dataclasses.replace(WELL, away=0.01, above=0.0)
    then = dataclasses.replace(stuck, in_hand=True, moved=0.03) if caught else stuck
    at = {1.0: stuck, 2.6: stuck, 2.8: then, 3.0: then}
    shown = []
    for time_s, seen in at.items():
        moment = dataclasses.replace(seen, time_s=time_s)
        monkeypatch.setattr(person, "_look", lambda moment=moment: moment)
        shown.append(person.tick(rig.command) is not None)
    assert any(shown) == takes_over
    assert person.reasons == (["no_progress"] if takes_over else [])
