"""Robots as data: joint order, limits, actuators, coupling. The one place where joint order lives.

An action vector is `[arm joints (7), actuated hand joints (m)]` in the order of `RobotSpec.joint_names`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dexhil.names import check_known
from dexhil.schema import ARM_DOF


@dataclasses.dataclass(frozen=True)
class RobotSpec:
    """An arm with a dexterous hand.

    joint_names: A names, arm first. lower, upper: [A] rad. max_velocity: [A] rad/s. home: [A] rad.
    full_hand_joint_names: every hand joint, also the driven ones. coupling: [full, m], full joints = coupling @ q_hand.
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


# Limits: Franka Research 3 data sheet. Velocity limits are FR3's own, not the older Panda's.
_FR3_LOWER = [-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159]
_FR3_UPPER = [2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159]
_FR3_MAX_VELOCITY = [2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26]
_FR3_HOME = [0.0, -0.65, 0.0, -2.74, 0.0, 2.69, 0.0]  # hand above the table's middle, fingers forward and down

# DexHand021 (arXiv 2511.03481), intersection of the vendor's tables: bending 0-1.3, thumb rotation 0-2.2, spread 0-0.6.
_DEXHAND_ACTUATORS = (
    "thumb_rotation", "thumb_mcp", "thumb_dip", "spread",
    "index_mcp", "index_pip", "middle_mcp", "middle_pip", "ring_mcp", "ring_pip", "little_mcp", "little_pip",
)  # fmt: skip
_DEXHAND_COUPLING: tuple[tuple[str, str, float], ...] = (  # (joint, the actuator that drives it, ratio)
    ("thumb_rotation", "thumb_rotation", 1.0),
    ("thumb_mcp", "thumb_mcp", 1.0),
    ("thumb_pip", "thumb_dip", 1.0),
    ("thumb_dip", "thumb_dip", 1.0),
    ("index_spread", "spread", 1.0),
    ("index_mcp", "index_mcp", 1.0),
    ("index_pip", "index_pip", 1.0),
    ("index_dip", "index_pip", 1.0),
    ("middle_mcp", "middle_mcp", 1.0),
    ("middle_pip", "middle_pip", 1.0),
    ("middle_dip", "middle_pip", 1.0),
    ("ring_spread", "spread", 1.0),
    ("ring_mcp", "ring_mcp", 1.0),
    ("ring_pip", "ring_pip", 1.0),
    ("ring_dip", "ring_pip", 1.0),
    ("little_spread", "spread", 2.0),
    ("little_mcp", "little_mcp", 1.0),
    ("little_pip", "little_pip", 1.0),
    ("little_dip", "little_pip", 1.0),
)


def _coupling_matrix(rows: tuple[tuple[str, str, float], ...], actuators: tuple[str, ...]) -> np.ndarray:
    matrix = np.zeros((len(rows), len(actuators)), np.float32)
    for row, (_, actuator, ratio) in enumerate(rows):
        matrix[row, actuators.index(actuator)] = ratio
    return matrix


_DEXHAND_HOME = [0.94, 0.25, 0.25, 0.0] + [0.5, 0.3] * 4  # open and relaxed, thumb half opposed

_DEXHAND_UPPER = {"thumb_rotation": 2.2, "spread": 0.3}  # little spread is driven twice as far: 0.6 there

FR3_DEXHAND021 = RobotSpec(
    name="fr3_dexhand021",
    joint_names=tuple(f"fr3_joint{i + 1}" for i in range(ARM_DOF)) + _DEXHAND_ACTUATORS,
    lower=np.array(_FR3_LOWER + [0.0] * len(_DEXHAND_ACTUATORS), np.float32),
    upper=np.array(_FR3_UPPER + [_DEXHAND_UPPER.get(name, 1.3) for name in _DEXHAND_ACTUATORS], np.float32),
    max_velocity=np.array(_FR3_MAX_VELOCITY + [4.0] * len(_DEXHAND_ACTUATORS), np.float32),
    home=np.array(_FR3_HOME + _DEXHAND_HOME, np.float32),
    full_hand_joint_names=tuple(joint for joint, _, _ in _DEXHAND_COUPLING),
    coupling=_coupling_matrix(_DEXHAND_COUPLING, _DEXHAND_ACTUATORS),
)

ROBOTS: dict[str, RobotSpec] = {spec.name: spec for spec in (FR3_DEXHAND021,)}


def get_robot(name: str) -> RobotSpec:
    """The spec called `name`. Raises ValueError with the nearest name where there is none."""
    check_known("robot", name, ROBOTS)
    return ROBOTS[name]
