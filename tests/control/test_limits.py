import numpy as np
import pytest

from dexhil.control.limits import UnsafeCommandError, limit_command
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC

PERIOD_S = 0.05


def test_a_command_within_limits_passes_unchanged():
    action = SPEC.home + 0.01 * SPEC.max_velocity * PERIOD_S
    np.testing.assert_array_equal(limit_command(action, SPEC.home, SPEC, PERIOD_S), action)


@pytest.mark.parametrize("seed", range(5))
def test_executed_commands_keep_position_and_velocity_limits(seed):
    rng = np.random.default_rng(seed)
    command = SPEC.home
    for _ in range(50):
        executed = limit_command(rng.normal(0, 3, SPEC.action_dim).astype(np.float32), command, SPEC, PERIOD_S)
        assert (executed >= SPEC.lower).all()
        assert (executed <= SPEC.upper).all()
        assert (np.abs(executed - command) <= SPEC.max_velocity * PERIOD_S + 1e-6).all()
        assert executed.dtype == np.float32
        command = executed


def test_limiting_twice_changes_nothing():
    once = limit_command(np.full(SPEC.action_dim, 9.0, np.float32), SPEC.home, SPEC, PERIOD_S)
    np.testing.assert_array_equal(limit_command(once, SPEC.home, SPEC, PERIOD_S), once)


def test_a_far_command_is_reached_step_by_step():
    command, goal = SPEC.home, SPEC.upper
    for _ in range(60):
        command = limit_command(goal, command, SPEC, PERIOD_S)
    np.testing.assert_allclose(command, goal, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_command_names_the_joint(value):
    action = SPEC.home.copy()
    action[3] = value
    with pytest.raises(UnsafeCommandError, match=r"joint fr3_joint4 is .*expected finite radians"):
        limit_command(action, SPEC.home, SPEC, PERIOD_S)


def test_wrong_width_is_refused():
    with pytest.raises(UnsafeCommandError, match=r"expected \[19\] joints of fr3_dexhand021, got \[7\]"):
        limit_command(SPEC.home[:7], SPEC.home, SPEC, PERIOD_S)
