"""The scene without its task: `scene.xml`, with the robot's description in it."""

from pathlib import Path

import mujoco
import numpy as np

from dexhil.robots.spec import FR3_DEXHAND021, RobotSpec

SPEC = FR3_DEXHAND021
EE_SITE = "ee"
TIMESTEP_S = 0.002


def build_scene() -> mujoco.MjSpec:
    """Floor, table, robot, lights and the cameras `scene` and `wrist`; a task adds its objects before compiling."""
    return mujoco.MjSpec.from_file(str(Path(__file__).with_name("scene.xml")))


def drive_joint(robot: RobotSpec, actuator: int) -> str:
    """The full hand joint that motor `actuator` turns: the first one it is coupled to."""
    return robot.full_hand_joint_names[int(np.argmax(robot.coupling[:, actuator] > 0))]
