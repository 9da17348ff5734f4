"""Trees of hinges and their forward kinematics: one function for every hand, for NumPy and JAX."""

from __future__ import annotations

import dataclasses
import functools
import xml.etree.ElementTree as ElementTree
from types import ModuleType
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

BASE = -1


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Tree:
    """J hinges. Compared by identity.

    joint_names: J names, a parent before its children. parents: [J], BASE or a joint. positions [J, 3] m and rotations
    [J, 3, 3]: each joint's frame at angle 0 in its parent's. axes: [J, 3], unit vectors in the joint's own frame.
    """

    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    positions: np.ndarray
    rotations: np.ndarray
    axes: np.ndarray

    @classmethod
    def from_mjcf(cls, root: ElementTree.Element, names: tuple[str, ...]) -> Tree:
        """The bodies called `names`, each with a hinge about its z axis (or without: then at angle 0)."""
        bodies = {body.get("name", ""): body for body in root.iter("body")}
        parent_of = {child: body.get("name") for body in root.iter("body") for child in body.findall("body")}
        parents = [parent_of.get(bodies[name]) for name in names]
        quaternions = [numbers(bodies[name], "quat", "1 0 0 0") for name in names]
        return cls(
            joint_names=names,
            parents=tuple(names.index(parent) if parent in names else BASE for parent in parents),
            positions=np.array([numbers(bodies[name], "pos") for name in names]),
            rotations=Rotation.from_quat(quaternions, scalar_first=True).as_matrix(),
            axes=np.tile([0.0, 0.0, 1.0], (len(names), 1)),
        )

    @functools.cached_property
    def rodrigues(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[J, 3, 3] each: a joint's rotation in its parent is the first + sin * the second + (1 - cos) * the third."""
        cross = np.cross(self.axes[:, None], np.eye(3)).swapaxes(-1, -2)
        return self.rotations, self.rotations @ cross, self.rotations @ cross @ cross

    def frames(self, angles: Any, xp: ModuleType = np) -> tuple[Any, Any]:
        """Position [..., J, 3] m and rotation [..., J, 3, 3] of the joints in the base frame at `angles` [..., J]."""
        still, sines, cosines = (part.astype(angles.dtype) for part in self.rodrigues)
        turns = still + xp.sin(angles)[..., None, None] * sines + (1.0 - xp.cos(angles))[..., None, None] * cosines
        offsets = self.positions.astype(angles.dtype)
        positions: list[Any] = []
        rotations: list[Any] = []
        for joint, parent in enumerate(self.parents):
            turn = turns[..., joint, :, :]
            if parent == BASE:
                positions.append(xp.broadcast_to(offsets[joint], turn.shape[:-1]))
                rotations.append(turn)
            else:
                positions.append(positions[parent] + rotations[parent] @ offsets[joint])
                rotations.append(rotations[parent] @ turn)
        return xp.stack(positions, axis=-2), xp.stack(rotations, axis=-3)


def numbers(element: ElementTree.Element, attribute: str, default: str = "") -> list[float]:
    """The numbers of an attribute."""
    return [float(number) for number in element.get(attribute, default).split()]
