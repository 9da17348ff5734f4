"""Control on a clock of the test: modes, watchdogs, dead-man, emergency stop, jumps, and what may be sent."""

import dataclasses

import numpy as np
import pytest

from dexhil.control.guard import depths
from dexhil.control.takeover import Mode
from dexhil.robots.poses import make_pose, rotation
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF
from hardware.runtime.control import Phase
from tests.hardware.fakes import BOX, SETTINGS, TICK_S, WATCHDOG_S, Bench, moves, somewhere, still


def test_nothing_is_sent_while_off_and_nothing_moves_while_idle():
    bench = Bench()
    bench.goal = somewhere(np.random.default_rng(0))
    bench.run(0.3)
    assert not bench.arm.commands
    assert not bench.hand.commands
    bench.control.request(Phase.IDLE)
    assert still(bench.run(0.3))
    np.testing.assert_allclose(bench.arm.commands[-1], SPEC.home[:ARM_DOF], atol=1e-6)


def test_the_arm_is_commanded_at_a_third_of_the_hands_rate(bench: Bench):
    arm, hand = len(bench.arm.commands), len(bench.hand.commands)
    bench.run(1.0)
    assert len(bench.hand.commands) - hand == 90
    assert len(bench.arm.commands) - arm == 30


def test_modes_of_a_takeover_in_order_and_stale_plans_are_dropped(bench: Bench):
    bench.operator.value = True
    modes = [bench.tick().mode for _ in range(3)]
    assert modes == [Mode.ENGAGING, Mode.HUMAN, Mode.HUMAN]
    assert bench.control.latest.is_intervention
    epoch = bench.control.latest.epoch
    bench.planning = False  # what is executed now was planned before the hand-back
    bench.operator.value = False
    assert {snapshot.mode for snapshot in bench.run(0.1)} == {Mode.RELEASING}
    assert bench.control.latest.epoch == epoch + 1
    bench.planning = True
    bench.run(0.1)
    assert bench.control.latest.mode is Mode.AUTONOMOUS


def test_a_person_who_holds_still_stops_the_robot_without_a_jump(bench: Bench):
    rng = np.random.default_rng(1)
    for _ in range(20):
        bench.goal = somewhere(rng)
        bench.run(rng.uniform(0.2, 0.6))
        bench.tracker.value = make_pose(rng.uniform(-1, 1, 3), rotation(np.r_[0, 0, 0, rng.normal(size=4)]))
        bench.glove.value = rng.uniform(SPEC.lower[ARM_DOF:], SPEC.upper[ARM_DOF:]).astype(float)
        bench.operator.value = True
        rest = bench.control.safety.resting_point()
        bench.run(0.6)
        assert still(bench.run(0.2))
        np.testing.assert_allclose(bench.control.latest.command, rest, atol=2e-3)  # though arm and hand lag behind
        bench.operator.value = False
        bench.run(0.1)
    changes = bench.control.changes.take()
    assert sum(change.kind == "takeover" for change in changes) == 20
    assert sum(change.kind == "release" for change in changes) == 20
    assert max(change.asked.max for change in changes if change.kind == "takeover") < 1e-4
    released = [change.asked.max for change in changes if change.kind == "release"]
    assert 0.001 < np.median(released) < 0.1  # what the policy asks for; it fades in
    assert max(change.felt.max for change in changes) < 0.005


def test_random_and_hostile_input_sends_nothing_outside_the_limits():
    """Policy, person and buttons at random; what reached the actuators is judged, not what was meant."""
    bench, rng = Bench(), np.random.default_rng(2)
    bench.start(somewhere(rng))
    for _ in range(1500):
        if rng.uniform() < 0.1:
            bench.goal = rng.uniform(SPEC.lower - 2, SPEC.upper + 2).astype(np.float32)
        if rng.uniform() < 0.02:
            bench.goal = np.full(SPEC.action_dim, rng.choice([np.nan, np.inf, -np.inf]), np.float32)
        if rng.uniform() < 0.03:
            bench.operator.value = not bench.operator.value
        if rng.uniform() < 0.3:
            bench.tracker.value = make_pose(rng.uniform(-1, 1, 3), rotation(np.r_[0, 0, 0, rng.normal(size=4)]))
            bench.glove.value = rng.uniform(-5, 5, SPEC.hand_dof)
        if rng.uniform() < 0.01:
            bench.operator.press(str(rng.choice(["estop", "clear_estop"])))
        if rng.uniform() < 0.02:
            device = (bench.camera, bench.glove, bench.tracker)[rng.integers(3)]
            device.alive = not device.alive
        bench.tick()
    settings = SETTINGS
    for commands, hz, joints, acceleration, jerk in (
        (bench.arm.commands, 30.0, slice(0, ARM_DOF), settings.arm_acceleration, settings.arm_jerk),
        (bench.hand.commands, 90.0, slice(ARM_DOF, None), settings.hand_acceleration, settings.hand_jerk),
    ):
        q = np.array(commands, np.float64)
        v, a, j = (np.diff(q, n, axis=0) * hz**n for n in (1, 2, 3))
        rounding = 1e-6  # commands are float32
        assert np.isfinite(q).all()
        assert len(q) > 100
        assert ((q >= SPEC.lower[joints] - rounding) & (q <= SPEC.upper[joints] + rounding)).all()
        assert (np.abs(v) <= settings.velocity_fraction * SPEC.max_velocity[joints] + rounding * hz).all()
        assert np.abs(a).max() <= acceleration + 4 * rounding * hz**2
        assert np.abs(j).max() <= jerk + 8 * rounding * hz**3
    places = depths(np.array(bench.arm.commands), SPEC.home[ARM_DOF:], dataclasses.replace(BOX, tips_m=-0.2))
    assert places.max() < 0.03  # a stop ends in an allowed place; on the way there it may cut a corner


@pytest.mark.parametrize("part", ["arm", "hand", "camera"])
def test_a_silent_device_holds_the_robot_and_work_goes_on_when_it_speaks_again(bench: Bench, part: str):
    device = getattr(bench, part)
    bench.run(0.2)
    device.alive = False
    bench.run(max(3 * device.period_s, 0.1) + 2 * TICK_S)  # 150 ms for a camera of 20 Hz
    assert bench.control.latest.mode is Mode.HOLD
    bench.run(0.3)
    assert still(bench.run(0.2))
    assert device.name in bench.control.latest.holding
    assert device.name in bench.said()
    device.alive = True
    bench.goal = somewhere(np.random.default_rng(5))
    assert moves(bench)
    assert any(part in cause for cause in bench.causes())


def test_a_silent_arm_is_lost_after_a_second_and_comes_back_with_a_persons_consent_only(bench: Bench):
    bench.run(0.2)
    bench.arm.alive = False
    bench.run(1.5)
    assert "arm" in bench.control.watch.lost
    told = len(bench.arm.commands)
    bench.operator.press("clear_estop")
    bench.run(0.2)
    assert "still lost" in bench.said()
    bench.arm.alive = True
    assert still(bench.run(0.3))
    assert len(bench.arm.commands) == told
    moved_by_hand = SPEC.home[:ARM_DOF] + 0.2
    bench.arm.value = dataclasses.replace(bench.arm.value, q=moved_by_hand)
    bench.operator.press("clear_estop")
    bench.goal = np.concatenate([moved_by_hand, SPEC.home[ARM_DOF:]])
    bench.run(0.1)
    assert not bench.control.watch.lost
    assert np.abs(bench.arm.commands[told] - moved_by_hand).max() < 0.02


def test_an_actuator_that_cannot_be_told_holds_the_robot(bench: Bench):
    bench.hand.broken = "stalled; free the finger"
    bench.run(0.5)
    assert bench.control.latest.mode is Mode.HOLD
    assert still(bench.run(0.2))
    assert "free the finger" in bench.said()
    bench.hand.broken = ""
    bench.operator.press("clear_estop")
    bench.goal = somewhere(np.random.default_rng(5))
    assert moves(bench)


@pytest.mark.parametrize("fault", ["silent", "absent"])
def test_without_a_working_dead_man_switch_nobody_commands(bench: Bench, fault: str):
    bench.operator.value = True
    bench.run(0.1)
    assert bench.control.latest.is_intervention
    if fault == "silent":
        bench.operator.alive = False
    else:
        bench.operator.valid = False  # unplugged: the driver says so
    bench.run(WATCHDOG_S)
    assert not bench.control.latest.is_intervention
    bench.run(0.4)
    assert still(bench.run(0.2))  # the policy does not take over from a person who cannot object
    assert "pad" in bench.control.latest.holding


@pytest.mark.parametrize("device", ["tracker", "glove"])
def test_a_person_whose_devices_fail_is_not_replaced_by_the_policy(bench: Bench, device: str):
    bench.operator.value = True
    bench.run(0.3)
    getattr(bench, device).alive = False
    bench.run(WATCHDOG_S)
    assert bench.control.latest.mode is Mode.HOLD
    assert getattr(bench, device).name in bench.said()
    getattr(bench, device).alive = True
    assert bench.tick().mode is Mode.ENGAGING  # anchored again


@pytest.mark.parametrize("value", [np.full(7, np.nan), np.array([0, 0, 0, 2.0, 0, 0, 0]), np.zeros(3)])
def test_a_tracker_that_gives_no_pose_moves_nothing(bench: Bench, value: np.ndarray):
    bench.operator.value, bench.tracker.value = True, value
    bench.run(0.4)
    assert bench.control.latest.mode is Mode.HOLD
    assert still(bench.run(0.2))
    assert "cube" in bench.said()


def test_a_glove_of_key_points_without_a_retargeter_is_named(bench: Bench):
    bench.operator.value, bench.glove.value = True, np.zeros((21, 3))
    bench.run(0.1)
    assert "teleop.retargeter" in bench.said()


def test_the_emergency_stop_is_latched_through_everything_but_clear(bench: Bench):
    bench.run(0.2)
    bench.operator.press("estop")
    bench.run(0.6)
    assert bench.control.latest.mode is Mode.ESTOP
    for attempt in range(3):
        bench.goal, bench.operator.value = somewhere(np.random.default_rng(attempt)), attempt == 1
        bench.control.request(Phase.RUNNING)
        assert still(bench.run(0.3))
        assert bench.control.latest.mode is Mode.ESTOP
    bench.operator.value = False
    bench.operator.press("clear_estop")
    assert moves(bench)
    assert "estop" in bench.causes()


def test_after_an_emergency_stop_motion_starts_slowly():
    bench = Bench(dataclasses.replace(SETTINGS, soft_start_s=2.0))
    bench.run(3.0)
    bench.start(SPEC.home + 0.3)
    bench.operator.press("estop")
    bench.run(0.5)
    bench.operator.press("clear_estop")
    early = bench.run(0.2)
    speed = np.abs(np.diff([s.command for s in early], axis=0)).max(0) / TICK_S
    assert (speed[ARM_DOF:] < 0.2 * SPEC.max_velocity[ARM_DOF:]).all()


def test_another_reason_to_hold_is_commanded_at_once_and_the_same_only_once(bench: Bench):
    bench.planning = False
    for error in ("out of memory after 3 s", "out of memory after 4 s", "not finite"):
        bench.run(0.2)
        bench.answer(None, f"policy: {error}")
        bench.run(0.3)
    assert bench.said().count("out of memory") == 1
    assert bench.said().count("not finite") == 1


def test_a_clock_that_jumps_ahead_holds_and_recovers(bench: Bench):
    bench.run(0.2)
    stamp = bench.now
    for device in (bench.arm, bench.hand, bench.camera, bench.operator):
        device.clock = lambda: stamp  # what is in the slots was stamped before the jump
    before = bench.control.latest.command
    bench.now += 3600.0
    snapshot = bench.tick()
    assert snapshot.mode is Mode.HOLD
    assert np.abs(snapshot.command - before).max() < 0.1
    for device in (bench.arm, bench.hand, bench.camera, bench.operator):
        device.clock = bench.clock
    bench.goal = somewhere(np.random.default_rng(5))
    bench.operator.press("clear_estop")
    assert moves(bench, 1.0)


def test_readings_from_the_future_are_not_trusted(bench: Bench):
    bench.camera.clock = lambda: bench.now + 60.0
    bench.run(0.05)
    assert bench.control.latest.mode is Mode.HOLD
    assert "clock jumped" in bench.said()


def test_what_others_find_wrong_holds_the_robot_too(bench: Bench):
    bench.control.watch.outside = {"recorder": "recorder: the disk is full"}
    bench.run(0.4)
    assert still(bench.run(0.1))
    assert "the disk is full" in bench.said()
    bench.control.watch.outside = {}
    bench.goal = somewhere(np.random.default_rng(5))
    assert moves(bench)


@pytest.mark.parametrize(("joint", "angle", "cause"), [(1, 1.4, "table"), (0, 2.5, "workspace")])
def test_the_guard_stops_the_arm_before_a_place_that_is_not_allowed(joint: int, angle: float, cause: str):
    bench = Bench()
    goal = SPEC.home.copy()
    goal[joint] = angle
    bench.start(goal)
    bench.run(3.0)
    assert depths(bench.arm.commands[-1], SPEC.home[ARM_DOF:], BOX).max() <= 1e-3
    assert cause in bench.causes()
    bench.goal = SPEC.home.copy()  # the way back is open
    bench.run(4.0)
    np.testing.assert_allclose(bench.arm.commands[-1], SPEC.home[:ARM_DOF], atol=0.05)


def test_what_is_recorded_is_what_the_device_was_commanded_and_by_when(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    times = []

    def halved(target: np.ndarray, t_execute: float, epoch: int) -> np.ndarray:
        times.append(t_execute - bench.now)
        return np.asarray(target, np.float32) / 2

    monkeypatch.setattr(bench.hand, "command", halved)
    bench.run(0.1)
    np.testing.assert_allclose(bench.control.latest.command[ARM_DOF:], bench.control.safety.command[ARM_DOF:] / 2)
    np.testing.assert_allclose(times, TICK_S)


def test_a_step_is_recorded_with_the_first_command_after_its_observation(bench: Bench):
    snapshots = bench.run(0.2)
    assert bench.control.since(snapshots[3].t) is snapshots[3]
    assert bench.control.since(snapshots[3].t + 1e-4) is snapshots[4]
    assert bench.control.since(bench.now + 1.0) is snapshots[-1]


def test_an_episode_begins_where_the_robot_is_and_not_where_it_was_left(monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    bench.control.request(Phase.IDLE)
    bench.run(0.1)
    moved = (SPEC.home[:ARM_DOF] + 0.2).astype(np.float32)
    monkeypatch.setattr(bench.arm, "command", lambda target, t_execute, epoch: np.array(target))
    bench.arm.value = dataclasses.replace(bench.arm.value, q=moved)
    bench.planning = False
    bench.start()
    np.testing.assert_allclose(bench.control.latest.command[:ARM_DOF], moved, atol=1e-6)
