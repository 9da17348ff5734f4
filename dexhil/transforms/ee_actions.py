"""Actions as end-effector motion: what a policy predicts in the action spaces "ee_delta" and "ee_pose". NumPy only.

Recorded data stays joint targets. Each action of a chunk becomes the pose that it commands: relative to the present
pose ("ee_delta"), or in the base frame, its rotation relative to that at home ("ee_pose"). The way back is inverse
kinematics. Redundant elbow postures, which differ between demonstrations, vanish from what has to be learnt. Letters:
H chunk, A = 7 + m joint action width, m hand joints.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.robots import arm_ik
from dexhil.robots.geometry import ee_pose
from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.schema import ARM_DOF

EE_SPACES = ("ee_delta", "ee_pose")
EE_DIM = 6  # translation m, rotation vector rad; both in the base frame
HOME_ROTATION = ee_pose(FR3_DEXHAND021.home[:ARM_DOF])[1]  # [3, 3]: rotations from it stay far from 180 degrees


def to_ee_actions(actions: np.ndarray, state: np.ndarray, space: str) -> np.ndarray:
    """Joint chunk [..., H, A] and state [..., A] rad -> float32 [..., H, 6 + m]: EE motion in `space`, hand targets."""
    position, rotation = _origin(state, space)
    targets, target_rotations = ee_pose(actions[..., :ARM_DOF])
    turns = target_rotations @ rotation[..., None, :, :].swapaxes(-1, -2)
    turn_vectors = Rotation.from_matrix(turns.reshape(-1, 3, 3)).as_rotvec().reshape(targets.shape)
    motion = [targets - position[..., None, :], turn_vectors, actions[..., ARM_DOF:]]
    return np.concatenate(motion, axis=-1).astype(np.float32)


def from_ee_actions(motion: np.ndarray, state: np.ndarray, space: str, before: np.ndarray | None = None) -> np.ndarray:
    """Inverse of `to_ee_actions` up to the elbow: [..., H, 6 + m], state [..., A] -> joint chunk float32 [..., H, A].

    Each pose is solved from the joints of the one before it, the first from `before` [..., A], by default the present
    joints. A pose out of reach gives the nearest one that the arm finds.
    """
    flat, states = motion.reshape(-1, *motion.shape[-2:]), state.reshape(-1, state.shape[-1])
    seeds = states if before is None else before.reshape(states.shape)
    chunks = [
        _solve_chunk(chunk, *_origin(present, space), seed)
        for chunk, present, seed in zip(flat, states, seeds, strict=True)
    ]
    return np.stack(chunks).reshape(*motion.shape[:-1], -1).astype(np.float32)


def _origin(state: np.ndarray, space: str) -> tuple[np.ndarray, np.ndarray]:
    if space == "ee_delta":
        return ee_pose(state[..., :ARM_DOF])
    return np.zeros((*state.shape[:-1], 3)), np.broadcast_to(HOME_ROTATION, (*state.shape[:-1], 3, 3))


def ee_state(state: np.ndarray) -> np.ndarray:
    """State [..., A] rad -> float32 [..., 9 + m]: EE position, two columns of its rotation, hand joints."""
    position, rotation = ee_pose(state[..., :ARM_DOF])
    columns = rotation[..., :, :2].swapaxes(-1, -2).reshape(*position.shape[:-1], 6)
    return np.concatenate([position, columns, state[..., ARM_DOF:]], axis=-1).astype(np.float32)


def _solve_chunk(chunk: np.ndarray, position: np.ndarray, rotation: np.ndarray, before: np.ndarray) -> np.ndarray:
    origin, q_arm, joints = Rotation.from_matrix(rotation), before[:ARM_DOF].astype(np.float64), []
    for action in chunk:
        turned = (Rotation.from_rotvec(action[3:EE_DIM]) * origin).as_quat(scalar_first=True)
        q_arm = arm_ik.solve(np.concatenate([position + action[:3], turned]), q_arm).q_arm
        joints.append(np.concatenate([q_arm, action[EE_DIM:]]))
    return np.stack(joints)
