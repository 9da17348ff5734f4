"""Where the robot's joints are: NumPy forward kinematics of `fr3_dexhand021.xml`, which names sources and frames."""

import xml.etree.ElementTree as ElementTree

import numpy as np

from dexhil.robots.spec import FR3_DEXHAND021, FR3_DEXHAND021_MJCF
from dexhil.robots.tree import Tree, numbers
from dexhil.schema import ARM_DOF

FINGERS = ("thumb", "index", "middle", "ring", "little")

_ROOT = ElementTree.parse(FR3_DEXHAND021_MJCF).getroot()
_SITES = {site.get("name"): np.array(numbers(site, "pos")) for site in _ROOT.iter("site") if site.get("name")}
ARM_TREE = Tree.from_mjcf(_ROOT, (*FR3_DEXHAND021.joint_names[:ARM_DOF], "palm"))
DEXHAND_TREE = Tree.from_mjcf(_ROOT, FR3_DEXHAND021.full_hand_joint_names)
TIP_IN_DIP_M = _SITES["index_tip"]  # every finger's
_TIP_CARRIERS = [DEXHAND_TREE.joint_names.index(f"{finger}_dip") for finger in FINGERS]
_COUPLING = FR3_DEXHAND021.coupling.astype(np.float64)


def fr3_joint_frames(q_arm: np.ndarray) -> np.ndarray:
    """T_base_joint [..., 8, 4, 4] of a Franka Research 3's seven joints and the palm, at `q_arm` [..., 7] rad."""
    q_arm = np.asarray(q_arm, np.float64)
    frames = np.zeros((*q_arm.shape[:-1], ARM_DOF + 1, 4, 4))
    angles = np.concatenate([q_arm, np.zeros((*q_arm.shape[:-1], 1))], axis=-1)
    frames[..., :3, 3], frames[..., :3, :3] = ARM_TREE.frames(angles)
    frames[..., 3, 3] = 1.0
    return frames


def ee_pose(q_arm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position [..., 3] m and rotation [..., 3, 3] of `ee` in the base frame at `q_arm` [..., 7] rad."""
    return ee_of_palm(fr3_joint_frames(q_arm)[..., -1, :, :])


def ee_of_palm(palm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position [..., 3] m and rotation [..., 3, 3] of `ee`, given T_base_palm [..., 4, 4]."""
    rotation = palm[..., :3, :3]
    return palm[..., :3, 3] + rotation @ _SITES["ee"], rotation


def finger_tips(q_hand: np.ndarray) -> np.ndarray:
    """Tip positions [..., 5, 3] m in the palm frame, order FINGERS, at the actuated joints `q_hand` [..., 12] rad."""
    positions, rotations = DEXHAND_TREE.frames(np.asarray(q_hand, np.float64) @ _COUPLING.T)
    return positions[..., _TIP_CARRIERS, :] + rotations[..., _TIP_CARRIERS, :, :] @ TIP_IN_DIP_M
