"""One trial on a rig without physics."""

from __future__ import annotations

import pytest

from dexhil.evaluation.rollout import Filming, run_trial
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
    with pytest.raises(ValueError, match=r"execute_steps: 8 is more than the policy's chunk of 4 actions; set it to"):
        run_trial(FakeRig(), UpPolicy(chunk=4), "plush", 4)
