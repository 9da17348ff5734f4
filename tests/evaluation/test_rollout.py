"""One trial on a rig without physics."""

from __future__ import annotations

import numpy as np
import pytest

from dexhil.evaluation.rollout import Filming, Planner, plan_seed, run_trial
from dexhil.schema import ActionChunk, Observation
from tests.evaluation.fakes import FakeRig, UpPolicy


def test_a_trial_ends_at_the_first_success():
    rig = FakeRig()
    trial = run_trial(rig, UpPolicy(), "plush", 4)
    assert (trial.task, trial.seed, trial.success, trial.failure) == ("plush", 4, True, "")
    assert 0.5 <= trial.seconds < 1.0
    assert rig.calls.count("apply") == round(trial.seconds * 20)
    assert rig.calls[-1] == "stop"


def test_a_failed_trial_uses_its_time_and_names_the_category():
    trial = run_trial(FakeRig(), UpPolicy(), "plush", 5)
    assert (trial.success, trial.seconds, trial.failure) == (False, 2.0, "never reached")
    assert run_trial(FakeRig(), UpPolicy(), "plush", 5, max_seconds=0.5).seconds == 0.5


def test_a_failure_that_the_rig_cannot_name_is_out_of_time():
    class Silent(FakeRig):
        def failure(self) -> str:
            return ""

    assert run_trial(Silent(), UpPolicy(), "plush", 5).failure == "out of time"


def test_plans_are_made_from_fresh_observations_every_execute_steps():
    rig, policy = FakeRig(), UpPolicy()
    run_trial(rig, policy, "plush", 5, execute_steps=8)
    assert [time for time, _ in policy.asked] == pytest.approx([0.0, 0.4, 0.8, 1.2, 1.6])
    assert rig.calls.count("observe") == 5


class Ramp(UpPolicy):
    """Moves joint 0 up by 0.02 rad per step from where it is; its chunks carry which plan they are in joint 1."""

    def __init__(self) -> None:
        super().__init__()
        self.prefixes: list[tuple[np.ndarray | None, int]] = []

    def infer(self, observation: Observation, *, seed: int, prefix=None, delay: int = 0) -> ActionChunk:
        self.asked.append((observation.timestamp, seed))
        self.prefixes.append((prefix, delay))
        actions = np.zeros((self.chunk, 8), np.float32)
        actions[:, 0] = observation.q_arm[0] + 0.02 * np.arange(1, 1 + self.chunk)
        actions[:, 1] = 0.01 * len(self.asked)
        return ActionChunk(actions, observation.timestamp)


class Tape(FakeRig):
    """Keeps what it was told to do: [which plan, row of it]."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[np.ndarray] = []

    def apply(self, action: np.ndarray) -> np.ndarray:
        self.told.append(action)
        return super().apply(action)


def _told(**settings) -> tuple[Tape, Ramp]:
    rig, policy = Tape(), Ramp()
    run_trial(rig, policy, "plush", 5, **settings)
    return rig, policy


@pytest.mark.parametrize("handover", ["sync", "replace"])
def test_without_latency_nothing_changes(handover):
    """Of every chunk the first `execute_steps` actions, from fresh observations, as a loop without a queue does it."""
    rig, policy = _told(execute_steps=5, latency_steps=0, handover=handover)
    plain, expected, again = FakeRig(), [], Ramp()
    plain.reset(task="plush", seed=5)
    actions = np.zeros((5, 8))
    for step in range(40):
        if step % 5 == 0:
            actions = again.infer(plain.observe(), seed=plan_seed(5, step)).actions
        expected.append(actions[step % 5])
        plain.apply(actions[step % 5])
    np.testing.assert_array_equal(rig.told, expected)
    assert policy.asked == again.asked


def test_a_late_chunk_takes_over_at_the_action_that_is_due():
    rig, policy = _told(latency_steps=3)
    plans = np.round(100 * np.array(rig.told)[:, 1]).astype(int)
    np.testing.assert_array_equal(plans[:27], [1] * 11 + [2] * 8 + [3] * 8)
    assert [time for time, _ in policy.asked] == pytest.approx([0.0, 0.4, 0.8, 1.2, 1.6])
    assert all(prefix is None for prefix, _ in policy.prefixes)


def test_a_robot_that_waits_for_its_chunks_holds_meanwhile():
    rig, _ = _told(latency_steps=3, handover="sync")
    told = np.array(rig.told)
    np.testing.assert_array_equal(np.round(100 * told[:22, 1]), [1] * 11 + [2] * 11)
    np.testing.assert_array_equal(told[7:11], told[[7] * 4])


def test_real_time_chunking_is_told_what_is_executed_meanwhile():
    rig, policy = _told(latency_steps=3, handover="rtc")
    assert policy.prefixes[0] == (None, 0)
    for number, (prefix, delay) in enumerate(policy.prefixes[1:], 1):
        assert delay == 3
        assert prefix is not None
        np.testing.assert_array_equal(prefix[:3], rig.told[8 * number : 8 * number + 3])


def test_after_a_person_moved_the_robot_nothing_planned_before_is_left():
    """Neither the chunk that is executed nor the one that is on its way; the next one is awaited, and begins afresh."""
    rig, policy = FakeRig(), Ramp()
    rig.reset(task="plush", seed=5)
    planner = Planner(policy, rig.control_hz, 5, execute_steps=8, latency_steps=3, handover="rtc")
    for step in range(10):
        rig.apply(planner.action(step, rig.observe))
    assert [time for time, _ in policy.asked] == pytest.approx([0.0, 0.4])
    planner.drop()
    told = [planner.action(step, rig.observe) for step in range(12, 20)]
    assert policy.prefixes[2] == (None, 0)
    np.testing.assert_array_equal(np.round(100 * np.array(told)[:, 1]), [3] * 8)
    assert told[0][0] == pytest.approx(rig.joints[0] + 0.02)


def test_seeds_differ_between_plans_and_trials_and_repeat_for_another_policy():
    asked = []
    for seed in (5, 5, 7):
        policy = UpPolicy()
        run_trial(FakeRig(), policy, "plush", seed)
        asked.append([plan_seed for _, plan_seed in policy.asked])
    assert asked[0] == asked[1]
    assert len({*asked[0], *asked[2]}) == 10
    assert all(0 <= plan_seed < 2**31 for plan_seed in asked[0])


def test_filming_takes_whole_steps_and_the_last_moment():
    frames = run_trial(FakeRig(), UpPolicy(), "plush", 5, filming=Filming(width=32, height=24, fps=10)).frames
    assert len(frames) == 20 + 1
    assert frames[0].shape == (24, 32, 3)
    assert len(run_trial(FakeRig(), UpPolicy(), "plush", 5, filming=Filming(only_last=True)).frames) == 1
    assert run_trial(FakeRig(), UpPolicy(), "plush", 5).frames == ()


def test_executing_more_than_the_chunk_holds_is_refused():
    with pytest.raises(ValueError, match=r"execute_steps: expected at least 1, got 0"):
        run_trial(FakeRig(), UpPolicy(), "plush", 4, execute_steps=0)
    with pytest.raises(ValueError, match=r"latency_steps: expected 0 or more control steps, got -1"):
        run_trial(FakeRig(), UpPolicy(), "plush", 4, latency_steps=-1)
    with pytest.raises(ValueError, match=r"execute_steps: 8 is more than the policy's chunk of 4 actions; set it to"):
        run_trial(FakeRig(), UpPolicy(chunk=4), "plush", 4)
