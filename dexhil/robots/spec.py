"""Robots as data, read from their descriptions: joint order, limits, actuators, coupling.

An action vector is `[arm joints (7), actuated hand joints (m)]` in the order of `RobotSpec.joint_names`.
"""

import dataclasses
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from dexhil.names import check_known
from dexhil.robots.tree import numbers
from dexhil.schema import ARM_DOF


@dataclasses.dataclass(frozen=True)
class RobotSpec:
    """An arm with a dexterous hand.

    Attributes:
        joint_names: A names, arm first.
        lower: [A] rad.
        upper: [A] rad.
        max_velocity: [A] rad/s.
        home: [A] rad.
        full_hand_joint_names: every hand joint, also the driven ones.
        coupling: [full, m], full joints = coupling @ q_hand.
    """

    name: str
    joint_names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    max_velocity: np.ndarray
    home: np.ndarray
    full_hand_joint_names: tuple[str, ...]
    coupling: np.ndarray

    def __post_init__(self) -> None:
        for field in ("lower", "upper", "max_velocity", "home"):
            if getattr(self, field).shape != (self.action_dim,):
                shape = getattr(self, field).shape
                raise ValueError(f"{self.name}.{field}: expected {self.action_dim} values, one per joint, got {shape}")
        if self.coupling.shape != (len(self.full_hand_joint_names), self.hand_dof):
            raise ValueError(f"{self.name}.coupling: expected [full joints, actuators], got {self.coupling.shape}")

    @property
    def action_dim(self) -> int:
        return len(self.joint_names)

    @property
    def hand_dof(self) -> int:
        """Number m of actuated hand joints."""
        return self.action_dim - ARM_DOF


def read_mjcf(root: ElementTree.Element, max_velocity: list[float], home: list[float]) -> RobotSpec:
    """The robot of an MJCF file: joints and limits of its position motors, arm first, coupled by joint equalities."""
    motors = root.findall("actuator/position")
    driver = {motor.get("joint"): column for column, motor in enumerate(motors)}
    coupled = {joint.get("joint1"): joint for joint in root.findall("equality/joint")}
    full = tuple(name for joint in root.iter("joint") if (name := joint.get("name")))[ARM_DOF:]
    coupling = np.zeros((len(full), len(motors)), np.float32)
    for row, name in enumerate(full):
        follows = coupled.get(name)
        ratio = 1.0 if follows is None else numbers(follows, "polycoef")[1]
        coupling[row, driver[name if follows is None else follows.get("joint2")]] = ratio
    ranges = np.array([numbers(motor, "ctrlrange") for motor in motors], np.float32)
    return RobotSpec(
        name=root.get("model", ""),
        joint_names=tuple(motor.get("name", "") for motor in motors),
        lower=ranges[:, 0],
        upper=ranges[:, 1],
        max_velocity=np.array(max_velocity, np.float32),
        home=np.array(home, np.float32),
        full_hand_joint_names=full,
        coupling=coupling[:, ARM_DOF:],
    )


FR3_DEXHAND021_MJCF = Path(__file__).with_name("fr3_dexhand021.xml")
FR3_DEXHAND021 = read_mjcf(
    ElementTree.parse(FR3_DEXHAND021_MJCF).getroot(),
    max_velocity=[2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26, *[4.0] * 12],  # FR3's own, not the older Panda's
    # The hand above the table's middle, fingers forward and down; open and relaxed, the thumb half opposed.
    home=[0.0, -0.65, 0.0, -2.74, 0.0, 2.69, 0.0, 0.94, 0.25, 0.25, 0.0, *[0.5, 0.3] * 4],
)

ROBOTS: dict[str, RobotSpec] = {spec.name: spec for spec in (FR3_DEXHAND021,)}


def get_robot(name: str) -> RobotSpec:
    """The spec called `name`.

    Raises:
        ValueError: there is none; names the nearest.
    """
    check_known("robot", name, ROBOTS)
    return ROBOTS[name]
