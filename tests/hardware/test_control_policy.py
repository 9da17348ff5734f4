"""Control and the plans of a policy: late, missing, wrong, or of another episode."""

import numpy as np

from dexhil.control.takeover import Mode
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from hardware.runtime.control import Phase
from hardware.settings import PolicyConfig
from tests.hardware.fakes import Bench, moves, somewhere, still


def test_a_policy_that_does_not_answer_holds_the_robot_and_goes_on_when_it_does(bench: Bench):
    bench.run(0.2)
    bench.planning = False
    bench.run(0.52)
    assert bench.control.latest.mode is Mode.HOLD
    assert not bench.control.latest.is_commanded
    bench.run(0.3)
    assert still(bench.run(0.1))
    assert "no answer (limit 0.4 s)" in bench.said()
    bench.planning = True
    bench.goal = somewhere(np.random.default_rng(5))
    assert moves(bench)
    assert "watchdog:policy" in bench.causes()


def test_a_chunk_that_ends_before_the_next_one_is_there_is_held_and_nobody_commands(bench: Bench):
    bench.planning = False
    bench.run(0.1)
    bench.answer(np.linspace(bench.control.latest.command, SPEC.home + 0.1, 4).astype(np.float32))
    bench.run(0.3)
    assert bench.control.latest.mode is Mode.AUTONOMOUS
    assert not bench.control.latest.is_commanded
    bench.run(0.35)
    assert bench.control.latest.mode is Mode.HOLD
    assert "watchdog:policy" in bench.causes()


def test_an_answer_that_comes_late_to_a_robot_at_rest_is_followed(bench: Bench):
    """A policy on a slow machine: the robot holds, and moves when it has answered."""
    bench.planning = False
    bench.run(1.0)
    assert bench.control.latest.mode is Mode.HOLD
    first, bench.goal = bench.asked[-1], somewhere(np.random.default_rng(5))
    bench.run(0.6)
    bench.asked.append(first)
    bench.answer(np.linspace(bench.control.latest.command, bench.goal, 17)[1:].astype(np.float32))
    assert moves(bench, 0.3)


def test_a_policy_that_is_started_again_is_a_reason_to_hold(bench: Bench):
    bench.planning, bench.report = False, None  # nothing is said before it has loaded
    assert bench.tick().mode is Mode.HOLD
    assert "no plan yet" in bench.said()
    assert "watchdog:policy" in bench.causes()


def test_a_policy_that_reports_an_error_holds_at_once(bench: Bench):
    bench.planning = False
    bench.run(0.1)
    bench.answer(None, "policy: returned an action that is not finite")
    assert bench.tick().mode is Mode.HOLD
    assert "not finite" in bench.said()


def test_a_plan_of_another_robot_is_not_followed(bench: Bench):
    bench.planning = False
    bench.run(0.1)
    bench.answer(np.zeros((16, 7), np.float32))
    assert bench.tick().mode is Mode.HOLD
    assert "[H, 19]" in bench.said()


def test_a_chunk_that_is_too_short_for_the_settings_is_not_followed():
    bench = Bench(policy=PolicyConfig())
    bench.planning = False
    bench.start()
    bench.answer(np.tile(SPEC.home, (4, 1)))
    bench.tick()
    assert "execute_steps: 8 is more than the policy's chunk of 4 actions" in bench.said()
    assert bench.control.latest.mode is not Mode.AUTONOMOUS


def test_a_plan_from_before_an_episode_is_not_followed_in_it(bench: Bench):
    bench.planning = False
    bench.run(0.2)
    bench.control.request(Phase.IDLE)
    bench.run(0.3)
    bench.control.request(Phase.RUNNING)
    bench.tick()
    bench.answer(np.linspace(bench.control.latest.command, SPEC.home + 0.3, 16).astype(np.float32))
    assert still(bench.run(0.2))
    assert not bench.control.latest.is_commanded


def test_a_plan_made_at_rest_for_the_last_episode_is_not_followed_in_the_next_one():
    bench = Bench()
    bench.planning = False
    bench.start()
    old = bench.asked[0]
    for phase in (Phase.IDLE, Phase.RUNNING):
        bench.control.request(phase)
        bench.tick()
    bench.asked.append(old)
    bench.answer(np.linspace(SPEC.home, SPEC.home + 0.3, 16).astype(np.float32))
    assert still(bench.run(0.1))
    assert not bench.control.latest.is_commanded
