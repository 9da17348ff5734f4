"""Trees of hinges and their forward kinematics: one function for every hand, for NumPy and JAX."""

from __future__ import annotations

import dataclasses
import functools
from types import ModuleType
from typing import Any

import numpy as np

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

    @functools.cached_property
    def rodrigues(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[J, 3, 3] each: a joint's rotation in its parent is the first + sin * the second + (1 - cos) * the third."""
        cross = np.cross(self.axes[:, None], np.eye(3)).swapaxes(-1, -2)
        return self.rotations, self.rotations @ cross, self.rotations @ cross @ cross

    def frames(self, angles: Any, xp: ModuleType = np) -> tuple[Any, Any]:
        """Position [..., J, 3] m and rotation [..., J, 3, 3] of every joint in the base frame, at `angles` [..., J]
        rad. xp: jnp (then under jit, vmap and grad too) or np."""
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
