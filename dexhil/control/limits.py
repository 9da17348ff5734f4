"""Limits that every command passes before a robot sees it, simulated or real. Pure functions.

What is recorded as the action is the command after these limits.
"""

from __future__ import annotations

import numpy as np

from dexhil.robots.spec import RobotSpec


class UnsafeCommandError(ValueError):
    """A command that no limit can make safe; the robot keeps its last command."""


def check_command(action: np.ndarray, spec: RobotSpec) -> None:
    """Raises UnsafeCommandError unless `action` holds `spec.action_dim` finite numbers."""
    if np.shape(action) != (spec.action_dim,):
        raise UnsafeCommandError(
            f"action: expected [{spec.action_dim}] joints of {spec.name}, got {list(np.shape(action))}"
        )
    if not np.isfinite(action).all():
        index = int(np.argmin(np.isfinite(action)))
        value, joint = action[index], spec.joint_names[index]
        raise UnsafeCommandError(f"action: joint {joint} is {value}; expected finite radians, check what produced it")


def limit_command(action: np.ndarray, previous: np.ndarray, spec: RobotSpec, period_s: float) -> np.ndarray:
    """The nearest command within position limits that is at most `max_velocity * period_s` away from `previous`.

    action, previous: [A] rad, the wanted and the last executed command. Returns float32 [A], the executed command.
    Raises UnsafeCommandError for a wrong shape or a non-finite value.
    """
    check_command(action, spec)
    reach = spec.max_velocity.astype(np.float64) * period_s
    within_reach = np.clip(np.asarray(action, np.float64), previous - reach, previous + reach)
    return np.clip(within_reach.astype(np.float32), spec.lower, spec.upper)
