"""Where the joints of the robots are, as data and as NumPy forward kinematics. Simulation and retargeting read it here.

Sources: Franka Research 3 data sheet (modified Denavit-Hartenberg parameters); DexHand021 (arXiv 2511.03481) and the
vendor's published joint frames. Frames: `base` stands on the table, +x forward, +z up; `palm` sits on the flange, +z to
the finger tips, +x out of the palm, +y to the thumb's side; `ee` is palm-aligned, where thumb and fingers pinch.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.robots.tree import BASE, Tree

HALF_PI = float(np.pi / 2)

# Rows (a_{i-1} m, d_i m, alpha_{i-1} rad) of the modified Denavit-Hartenberg convention (Craig).
FR3_DH: tuple[tuple[float, float, float], ...] = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -HALF_PI),
    (0.0, 0.316, HALF_PI),
    (0.0825, 0.0, HALF_PI),
    (-0.0825, 0.384, -HALF_PI),
    (0.0, 0.0, HALF_PI),
    (0.088, 0.0, HALF_PI),
)
FR3_FLANGE_M = 0.107
HAND_MOUNT_YAW = float(np.pi)  # palm about the flange axis: reaching forward with joint 7 in the middle of its range
PALM_TO_EE_M = (0.08, 0.0, 0.185)


@dataclasses.dataclass(frozen=True)
class HandJoint:
    """A hinge about the z axis of its own frame, whose x axis runs along the link it moves.

    parent: the joint whose link carries it, or "palm". position: m; quaternion: w-x-y-z; both in the parent's frame.
    """

    name: str
    parent: str
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)


_S = float(np.sqrt(0.5))
_MCP_M, _PIP_M, _DIP_M = 0.017, 0.043, 0.025  # spread to MCP, MCP to PIP, PIP to DIP
TIP_IN_DIP_M = (0.035, -0.004, 0.0)
FINGERS = ("thumb", "index", "middle", "ring", "little")


def _finger(name: str, y: float, z: float, spread_sign: float) -> tuple[HandJoint, ...]:
    """A finger whose MCP flexes towards +x of the palm; spread_sign 0: no spread joint."""
    mcp_turn = (_S, -_S, 0.0, 0.0)
    if spread_sign == 0.0:
        base = (HandJoint(f"{name}_mcp", "palm", (0.007, y, z + _MCP_M), (0.5, -0.5, -0.5, -0.5)),)
    else:
        turn, mcp_turn = (
            ((_S, 0.0, -_S, 0.0), mcp_turn) if spread_sign > 0 else ((0.0, _S, 0.0, _S), (_S, _S, 0.0, 0.0))
        )
        base = (
            HandJoint(f"{name}_spread", "palm", (0.007, y, z), turn),
            HandJoint(f"{name}_mcp", f"{name}_spread", (_MCP_M, 0.0, 0.0), mcp_turn),
        )
    return (
        *base,
        HandJoint(f"{name}_pip", f"{name}_mcp", (_PIP_M, 0.0, 0.0)),
        HandJoint(f"{name}_dip", f"{name}_pip", (_DIP_M, 0.0, 0.0)),
    )


# The order is that of FR3_DEXHAND021.full_hand_joint_names.
DEXHAND_JOINTS: tuple[HandJoint, ...] = (
    HandJoint("thumb_rotation", "palm", (0.0328, 0.0238, 0.1121), (0.151551, -0.775385, -0.612635, 0.022122)),
    HandJoint("thumb_mcp", "thumb_rotation", (0.0083, 0.0, 0.0), (_S, -_S, 0.0, 0.0)),
    HandJoint("thumb_pip", "thumb_mcp", (_PIP_M, 0.0, 0.0)),
    HandJoint("thumb_dip", "thumb_pip", (_DIP_M, 0.0, 0.0)),
    *_finger("index", 0.035, 0.1644, 1.0),
    *_finger("middle", 0.011, 0.1734, 0.0),
    *_finger("ring", -0.014, 0.1644, -1.0),
    *_finger("little", -0.038, 0.1504, -1.0),
)


def fr3_joint_frames(q_arm: np.ndarray) -> np.ndarray:
    """T_base_joint [..., 8, 4, 4] of a Franka Research 3's seven joints and its flange, at `q_arm` [..., 7] rad."""
    angles = np.moveaxis(np.asarray(q_arm, np.float64), -1, 0)
    frames = [_modified_dh(*FR3_DH[0], angles[0])]
    for row, angle in zip(FR3_DH[1:], angles[1:], strict=True):
        frames.append(frames[-1] @ _modified_dh(*row, angle))
    frames.append(frames[-1] @ _FLANGE)
    return np.stack(frames, axis=-3)


def ee_pose(q_arm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position [..., 3] m and rotation [..., 3, 3] of `ee` in the base frame at `q_arm` [..., 7] rad."""
    return ee_of_flange(fr3_joint_frames(q_arm)[..., -1, :, :])


def ee_of_flange(flange: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position [..., 3] m and rotation [..., 3, 3] of `ee`, given T_base_flange [..., 4, 4]."""
    ee = flange @ _FLANGE_TO_EE
    return ee[..., :3, 3], ee[..., :3, :3]


DEXHAND_TREE = Tree(
    joint_names=tuple(joint.name for joint in DEXHAND_JOINTS),
    parents=tuple(
        next((i for i, other in enumerate(DEXHAND_JOINTS) if other.name == joint.parent), BASE)
        for joint in DEXHAND_JOINTS
    ),
    positions=np.array([joint.position for joint in DEXHAND_JOINTS]),
    rotations=Rotation.from_quat([joint.quaternion for joint in DEXHAND_JOINTS], scalar_first=True).as_matrix(),
    axes=np.tile([0.0, 0.0, 1.0], (len(DEXHAND_JOINTS), 1)),
)
_TIP_CARRIERS = [DEXHAND_TREE.joint_names.index(f"{finger}_dip") for finger in FINGERS]
_COUPLING = FR3_DEXHAND021.coupling.astype(np.float64)


def finger_tips(q_hand: np.ndarray) -> np.ndarray:
    """Tip positions [..., 5, 3] m in the palm frame, order FINGERS, at the actuated joints `q_hand` [..., 12] rad."""
    positions, rotations = DEXHAND_TREE.frames(np.asarray(q_hand, np.float64) @ _COUPLING.T)
    return positions[..., _TIP_CARRIERS, :] + rotations[..., _TIP_CARRIERS, :, :] @ np.array(TIP_IN_DIP_M)


def _modified_dh(a: float, d: float, alpha: float, theta: np.ndarray | float) -> np.ndarray:
    """One row of the table as transforms [..., 4, 4]: RotX(alpha) TransX(a) RotZ(theta [...]) TransZ(d)."""
    ca, sa, c, s = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
    transform = np.zeros((*np.shape(theta), 4, 4))
    transform[..., 0, 0], transform[..., 0, 1], transform[..., 0, 3] = c, -s, a
    transform[..., 1, 0], transform[..., 1, 1], transform[..., 1, 2], transform[..., 1, 3] = (
        s * ca,
        c * ca,
        -sa,
        -sa * d,
    )
    transform[..., 2, 0], transform[..., 2, 1], transform[..., 2, 2], transform[..., 2, 3] = s * sa, c * sa, ca, ca * d
    transform[..., 3, 3] = 1.0
    return transform


_FLANGE = _modified_dh(0.0, FR3_FLANGE_M, 0.0, 0.0)
_FLANGE_TO_EE = _modified_dh(0.0, 0.0, 0.0, HAND_MOUNT_YAW)
_FLANGE_TO_EE[:3, 3] = _FLANGE_TO_EE[:3, :3] @ PALM_TO_EE_M
