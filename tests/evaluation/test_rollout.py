"""One trial on a rig without physics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dexhil.control.executor import ExecutorConfig, plan_seed
from dexhil.evaluation.rollout import Filming, Planner, run_trial
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
    run_trial(rig, policy, "plush", 5, executor=ExecutorConfig(8))
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
        self.commanded: list[np.ndarray] = []

    def apply(self, action: np.ndarray) -> np.ndarray:
        self.commanded.append(action)
        return super().apply(action)


def _commanded(latency_steps: int = 0, **settings: Any) -> tuple[Tape, Ramp]:
    """A trial whose chunks take over as they are."""
    rig, policy = Tape(), Ramp()
    executor = ExecutorConfig.of({"fade_s": 0.0} | settings)
    run_trial(rig, policy, "plush", 5, executor=executor, latency_steps=latency_steps)
    return rig, policy


@pytest.mark.parametrize("handover", ["sync", "replace"])
def test_without_latency_nothing_changes(handover):
    """Of every chunk the first `execute_steps` actions, from fresh observations, as a loop without a queue does it."""
    rig, policy = _commanded(execute_steps=5, handover=handover)
    plain, expected, again = FakeRig(), [], Ramp()
    plain.reset(task="plush", seed=5)
    actions = np.zeros((5, 8))
    for step in range(40):
        if step % 5 == 0:
            actions = again.infer(plain.observe(), seed=plan_seed(5, step)).actions
        expected.append(actions[step % 5])
        plain.apply(actions[step % 5])
    np.testing.assert_array_equal(rig.commanded, expected)
    assert policy.asked == again.asked


def test_a_late_chunk_takes_over_at_the_action_that_is_due_and_the_first_is_awaited_at_rest():
    rig, policy = _commanded(latency_steps=3)
    plans = np.round(100 * np.array(rig.commanded)[:, 1]).astype(int)
    np.testing.assert_array_equal(plans[:30], [0] * 3 + [1] * 11 + [2] * 8 + [3] * 8)
    np.testing.assert_array_equal(np.array(rig.commanded)[:3], np.tile(rig.commanded[0], (3, 1)))
    assert [time for time, _ in policy.asked] == pytest.approx([0.0, 0.55, 0.95, 1.35, 1.75])
    assert all(prefix is None for prefix, _ in policy.prefixes)


def test_a_robot_that_waits_for_its_chunks_holds_meanwhile():
    rig, _ = _commanded(latency_steps=3, handover="sync")
    commanded = np.array(rig.commanded)
    np.testing.assert_array_equal(np.round(100 * commanded[:25, 1]), [0] * 3 + [1] * 11 + [2] * 11)
    np.testing.assert_array_equal(commanded[10:14], commanded[[10] * 4])


def test_real_time_chunking_is_given_what_is_executed_meanwhile():
    rig, policy = _commanded(latency_steps=3, handover="rtc")
    assert policy.prefixes[0] == (None, 0)
    for number, (prefix, delay) in enumerate(policy.prefixes[1:], 1):
        assert delay == 3
        assert prefix is not None
        np.testing.assert_array_equal(prefix[:3], rig.commanded[8 * number + 3 : 8 * number + 6])


def test_a_new_chunk_fades_in_from_the_last_command():
    """At the start and at every chunk: joint 1 goes from plan to plan in small steps, not by 0.01 rad at once."""
    rig, _ = _commanded(fade_s=0.15)
    changes = np.abs(np.diff(np.r_[0.0, np.array(rig.commanded)[:, 1]]))
    assert changes.max() < 0.004
    assert rig.commanded[23][1] == pytest.approx(0.03, abs=0.0015)


def _planner(policy: Ramp, rig: FakeRig) -> Planner:
    planner = Planner(policy, rig.control_hz, 5, ExecutorConfig(handover="rtc"), latency_steps=3)
    planner.rest(rig.command)
    return planner


def test_after_a_person_moved_the_robot_nothing_planned_before_is_left():
    """Neither the chunk that is executed nor the one that is on its way; the next one begins where the robot is."""
    rig, policy = FakeRig(), Ramp()
    rig.reset(task="plush", seed=5)
    planner = _planner(policy, rig)
    for step in range(12):
        due = planner.due(step, rig.observe)
        rig.apply(rig.command if due is None else due.action)
    assert [time for time, _ in policy.asked] == pytest.approx([0.0, 0.55])
    planner.rest(np.full(8, 0.5, np.float32))
    assert [planner.due(step, rig.observe) for step in range(12, 15)] == [None] * 3
    due = planner.due(15, rig.observe)
    assert due is not None
    assert policy.prefixes[2] == (None, 0)
    np.testing.assert_allclose(due.action, np.full(8, 0.5))
    assert due.planned[1] == pytest.approx(0.03)


def test_a_policy_is_asked_while_a_person_commands_and_its_plans_are_for_the_record():
    rig, policy = FakeRig(), Ramp()
    rig.reset(task="plush", seed=5)
    planner = _planner(policy, rig)
    planner.watch()
    seen = [planner.due(step, rig.observe) for step in range(30)]
    assert all(due is not None for due in seen[3:])
    assert len(policy.asked) == 4
    assert all(prefix is None for prefix, _ in policy.prefixes)
    # what the policy would have commanded by now, without the way from where the robot was
    np.testing.assert_allclose(seen[3].planned[0], rig.joints[0] + 0.02 * 4, atol=1e-6)  # type: ignore[union-attr]
    planner.rest(rig.command)
    assert planner.due(30, rig.observe) is None


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
    with pytest.raises(ValueError, match=r"execute_steps 0: expected at least 1"):
        run_trial(FakeRig(), UpPolicy(), "plush", 4, executor=ExecutorConfig(0))
    with pytest.raises(ValueError, match=r"latency_steps: expected 0 or more control steps, got -1"):
        run_trial(FakeRig(), UpPolicy(), "plush", 4, latency_steps=-1)
    with pytest.raises(ValueError, match=r"execute_steps: 8 is more than the policy's chunk of 4 actions; set it to"):
        run_trial(FakeRig(), UpPolicy(chunk=4), "plush", 4)
