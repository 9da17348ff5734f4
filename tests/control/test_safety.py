"""The safety layer: what it lets through, what it brakes for, how softly it starts, and what it writes down."""

import dataclasses

import numpy as np
import pytest

from dexhil.control.safety import SafetyLayer, SafetyLog, motion_limits
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF
from tests.hardware.fakes import SETTINGS

TICK_S = 1.0 / 90.0


def moving(**settings: float) -> tuple[SafetyLayer, np.ndarray]:
    """A layer in the middle of a motion to the goal."""
    layer = SafetyLayer(SPEC, dataclasses.replace(SETTINGS, **settings), arm_hz=30.0, hand_hz=90.0)
    goal = (SPEC.home + 0.3).astype(np.float32)
    for tick in range(20):
        layer.limit(goal, tick * TICK_S, tick % 3 == 0)
    return layer, goal


@pytest.mark.parametrize("wanted", [np.full(SPEC.action_dim, np.nan), np.zeros(3), np.full(SPEC.action_dim, np.inf)])
def test_what_cannot_be_made_safe_brakes_to_the_resting_point(wanted: np.ndarray):
    layer, _ = moving()
    rest = layer.resting_point()
    assert np.abs(rest - layer.command).max() > 0.005
    for tick in range(90):
        layer.limit(wanted, 1.0 + tick * TICK_S, tick % 3 == 0)
    np.testing.assert_allclose(layer.command, rest, atol=1e-4)
    assert {span["cause"] for span in layer.log.take(9.0)} >= {"not_finite"}


def test_the_emergency_stop_keeps_its_first_reason_brakes_and_starts_softly_again():
    layer, goal = moving(soft_start_s=2.0)
    layer.estop("pressed")
    layer.estop("pressed again")
    assert layer.estopped == "pressed"
    rest = layer.resting_point()
    for tick in range(60):
        layer.limit(goal, 5.0 + tick * TICK_S, tick % 3 == 0)
    np.testing.assert_allclose(layer.command, rest, atol=1e-4)
    layer.clear(10.0)
    before = layer.command
    layer.limit(goal, 10.0 + TICK_S, True)
    fast = layer.arm.limits.velocity.max() / 30.0
    assert np.abs(layer.command - before).max() < 0.05 * fast
    assert layer._soft(11.0) == pytest.approx(0.5)


def test_after_a_reset_the_robot_rests_there_and_starts_softly():
    layer, goal = moving(soft_start_s=2.0)
    layer.reset(SPEC.home, 3.0)
    np.testing.assert_array_equal(layer.command, SPEC.home)
    np.testing.assert_array_equal(layer.resting_point(), SPEC.home)
    assert layer._soft(3.0) < layer._soft(4.0) == pytest.approx(0.5)
    assert layer._soft(9.0) == 1.0
    layer.limit(goal, 3.0, True)
    assert np.abs(layer.command - SPEC.home).max() < 0.01


def test_limits_are_the_fractions_and_margins_of_the_settings():
    settings = dataclasses.replace(SETTINGS, velocity_fraction=0.5, position_margin=0.1)
    arm, hand = (motion_limits(SPEC, part, settings) for part in (slice(0, ARM_DOF), slice(ARM_DOF, None)))
    np.testing.assert_allclose(arm.velocity, 0.5 * SPEC.max_velocity[:ARM_DOF])
    np.testing.assert_allclose(arm.lower, SPEC.lower[:ARM_DOF] + 0.1, atol=1e-6)
    np.testing.assert_allclose(arm.upper, SPEC.upper[:ARM_DOF] - 0.1, atol=1e-6)
    np.testing.assert_allclose(hand.upper, SPEC.upper[ARM_DOF:])
    assert (arm.acceleration[0], hand.jerk[0]) == (settings.arm_acceleration, settings.hand_jerk)


@pytest.mark.parametrize(
    ("joint", "size", "cause"), [(0, 9.0, "position"), (1, 0.4, "velocity"), (1, 0.045, "acceleration")]
)
def test_the_log_names_the_limit_that_kept_the_command_away(joint: int, size: float, cause: str):
    layer = SafetyLayer(SPEC, SETTINGS, arm_hz=30.0, hand_hz=90.0)
    goal = SPEC.home.copy()
    goal[joint] += size
    layer.limit(goal, 0.0, True)
    spans = layer.log.take(1.0)
    assert [span["cause"] for span in spans] == [cause]
    assert SPEC.joint_names[joint] in spans[0]["detail"]
    assert spans[0]["worst"] == pytest.approx(abs(goal - layer.command).max(), abs=1e-4)


def test_what_is_followed_is_not_an_intervention():
    layer = SafetyLayer(SPEC, SETTINGS, arm_hz=30.0, hand_hz=90.0)
    layer.limit(SPEC.home + np.float32(0.001), 0.0, True)
    assert layer.log.take(1.0, all_of_them=True) == []


def test_an_intervention_is_a_span_with_its_worst_and_another_one_after_a_gap():
    log = SafetyLog()
    assert log.note(1.0, "velocity", "joint 1", 0.1)
    assert not log.note(1.1, "velocity", "joint 1", 0.5)
    assert not log.note(1.2, "velocity", "joint 1", 0.2)
    assert log.take(1.3) == []
    assert log.note(2.0, "velocity", "joint 2", 0.3)
    (first,) = log.take(2.1)
    assert (first["begin"], first["end"], first["ticks"], first["worst"]) == (1.0, 1.2, 3, 0.5)
    (second,) = log.take(2.1, all_of_them=True)
    assert second["detail"] == "joint 2"
    assert log.take(9.0) == []


def test_from_a_place_that_is_not_allowed_the_way_back_is_open_and_the_way_on_is_not():
    box = dataclasses.replace(SETTINGS.box, upper=np.array([0.30, 0.5, 0.9]))  # home lies outside
    layer = SafetyLayer(SPEC, dataclasses.replace(SETTINGS, box=box), arm_hz=30.0, hand_hz=90.0)
    out, back = SPEC.home.copy(), SPEC.home.copy()
    out[3] += 0.3  # the elbow opens: the hand goes forward
    back[3] -= 0.3
    layer.limit(out, 0.0, True)
    assert "workspace" in layer.blocked
    np.testing.assert_allclose(layer.command[:ARM_DOF], SPEC.home[:ARM_DOF], atol=1e-6)
    layer.limit(back, 0.1, True)
    assert layer.blocked == ""
    assert layer.command[3] < SPEC.home[3]
