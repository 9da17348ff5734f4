"""What no limit can make a command of: another number of joints, or numbers that are not finite."""

import numpy as np

from dexhil.robots.spec import RobotSpec


class UnsafeCommandError(ValueError):
    """A command that no limit can make safe; the robot keeps its last command."""


def check_command(action: np.ndarray, spec: RobotSpec) -> None:
    """Refuses what no limit can make safe.

    Raises:
        UnsafeCommandError: `action` does not hold `spec.action_dim` finite numbers.
    """
    if np.shape(action) != (spec.action_dim,):
        raise UnsafeCommandError(
            f"action: expected [{spec.action_dim}] joints of {spec.name}, got {list(np.shape(action))}"
        )
    if not np.isfinite(action).all():
        index = int(np.argmin(np.isfinite(action)))
        value, joint = action[index], spec.joint_names[index]
        raise UnsafeCommandError(f"action: joint {joint} is {value}; expected finite radians, check what produced it")
