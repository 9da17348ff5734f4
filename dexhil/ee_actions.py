"""Actions as end-effector deltas: what a policy predicts when its action space is "ee_delta". NumPy only.

Recorded data stays joint targets. A chunk becomes, for each action, how far the pose it commands lies from the present
pose, and back through inverse kinematics. Redundant elbow postures, which differ between demonstrations, vanish from
what has to be learnt. Letters: H chunk, A = 7 + m joint action width, m hand joints.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil import arm_ik
from dexhil.robot_geometry import ee_pose
from dexhil.schema import ARM_DOF

EE_DIM = 6  # translation m, rotation vector rad; both in the base frame
EE_STATE_DIM = 9  # position m, first two columns of the rotation


def to_ee_delta(actions: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Joint chunk [..., H, A] and state [..., A] rad -> float32 [..., H, 6 + m]: delta of the EE pose, hand targets."""
    position, rotation = ee_pose(state[..., :ARM_DOF])
    targets, target_rotations = ee_pose(actions[..., :ARM_DOF])
    turns = target_rotations @ rotation[..., None, :, :].swapaxes(-1, -2)
    turn_vectors = Rotation.from_matrix(turns.reshape(-1, 3, 3)).as_rotvec().reshape(targets.shape)
    deltas = [targets - position[..., None, :], turn_vectors, actions[..., ARM_DOF:]]
    return np.concatenate(deltas, axis=-1).astype(np.float32)


def from_ee_delta(deltas: np.ndarray, state: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """Inverse of `to_ee_delta` up to the elbow: [..., H, 6 + m] and state [..., A] -> joint chunk float32 [..., H, A].

    Each pose is solved from the joints of the one before it, the first from `before` [..., A], by default the present
    joints. A pose out of reach gives the nearest one that the arm finds.
    """
    flat, states = deltas.reshape(-1, *deltas.shape[-2:]), state.reshape(-1, state.shape[-1])
    seeds = states if before is None else before.reshape(states.shape)
    chunks = [_solve_chunk(*parts) for parts in zip(flat, states, seeds, strict=True)]
    return np.stack(chunks).reshape(*deltas.shape[:-1], -1).astype(np.float32)


def ee_state(state: np.ndarray) -> np.ndarray:
    """State [..., A] rad -> float32 [..., 9 + m]: EE position, two columns of its rotation, hand joints."""
    position, rotation = ee_pose(state[..., :ARM_DOF])
    columns = rotation[..., :, :2].swapaxes(-1, -2).reshape(*position.shape[:-1], 6)
    return np.concatenate([position, columns, state[..., ARM_DOF:]], axis=-1).astype(np.float32)


def _solve_chunk(chunk: np.ndarray, state: np.ndarray, before: np.ndarray) -> np.ndarray:
    """[H, 6 + m] -> [H, A]"""
    pose, q_arm, joints = arm_ik.forward(state[:ARM_DOF]), before[:ARM_DOF].astype(np.float64), []
    now = Rotation.from_quat(pose[3:], scalar_first=True)
    for delta in chunk:
        rotation = Rotation.from_rotvec(delta[3:EE_DIM]) * now
        target = np.concatenate([pose[:3] + delta[:3], rotation.as_quat(scalar_first=True)])
        q_arm = arm_ik.solve(target, q_arm).q_arm
        joints.append(np.concatenate([q_arm, delta[EE_DIM:]]))
    return np.stack(joints)
