"""Robot hands as data: the tree of joints, what drives them, and where finger tips, pads and knuckles are. NumPy only.

A hand comes from a URDF file (`urdf`) or is the simulator's own, `simulated_dexhand021`. Its canonical frame is that of
`keypoints`: wrist at the origin, z to the middle knuckle, x out of the palm.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.retargeting.keypoints import PALM_FINGERS, canonical_axes
from dexhil.robots.geometry import DEXHAND_JOINTS, FINGERS, TIP_IN_DIP_M
from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.schema import ARM_DOF

PAD_RADIUS_M = 0.012  # a finger pad is a sphere whose centre is its radius behind the tip
BASE = -1
DEXHAND_WRIST_M = (0.004, 0.006, 0.105)  # behind its knuckles as far as a person's is, by the fingers' length
_BENDS = 0.7  # a joint whose axis is this much along the row of knuckles bends a finger, any other spreads or turns it


@dataclasses.dataclass(frozen=True)
class Point:
    """joint: index of the joint whose link carries the point, BASE for the hand's base. offset: [3] m in its frame."""

    joint: int
    offset: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Hand:
    """A hand with J hinges, driven by m motors. Compared by identity.

    joint_names: J names, a parent before its children. parents: [J], BASE or a joint. positions [J, 3] m and rotations
    [J, 3, 3]: each joint's frame at angle 0 in its parent's. axes: [J, 3], unit vectors in the joint's own frame.
    motor_names: m names. lower, upper: [m] rad. coupling [J, m], bias [J] rad: joints = coupling @ motors + bias.
    fingers: names among FINGERS, thumb first. tips, pads, roots: a point of each finger; a root is its knuckle.
    wrist: [3] m, where the human wrist would be, in the base frame.
    """

    name: str
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    positions: np.ndarray
    rotations: np.ndarray
    axes: np.ndarray
    motor_names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    coupling: np.ndarray
    bias: np.ndarray
    fingers: tuple[str, ...]
    tips: tuple[Point, ...]
    pads: tuple[Point, ...]
    roots: tuple[Point, ...]
    wrist: np.ndarray

    @property
    def num_motors(self) -> int:
        return len(self.motor_names)

    def chain(self, finger: str) -> list[int]:
        """The joints that carry the tip of `finger`, from the tip to the base."""
        joint, chain = self.tips[self.fingers.index(finger)].joint, []
        while joint != BASE:
            chain.append(joint)
            joint = self.parents[joint]
        return chain

    def motors_of(self, finger: str) -> np.ndarray:
        """bool [m]: the motors that move the tip of `finger`."""
        return (self.coupling[self.chain(finger)] != 0).any(axis=0)


def simulated_dexhand021() -> Hand:
    """The hand of the simulator, in its palm frame: the same joints, limits and coupling as `robot.FR3_DEXHAND021`."""
    names = tuple(joint.name for joint in DEXHAND_JOINTS)
    turns = Rotation.from_quat([joint.quaternion for joint in DEXHAND_JOINTS], scalar_first=True)
    tips = tuple(Point(names.index(f"{finger}_dip"), np.array(TIP_IN_DIP_M)) for finger in FINGERS)
    knuckles = [names.index("thumb_rotation"), *(names.index(f"{finger}_mcp") for finger in FINGERS[1:])]
    return Hand(
        name="simulated_dexhand021",
        joint_names=names,
        parents=tuple(BASE if joint.parent == "palm" else names.index(joint.parent) for joint in DEXHAND_JOINTS),
        positions=np.array([joint.position for joint in DEXHAND_JOINTS]),
        rotations=turns.as_matrix(),
        axes=np.tile([0.0, 0.0, 1.0], (len(names), 1)),
        motor_names=FR3_DEXHAND021.joint_names[ARM_DOF:],
        lower=FR3_DEXHAND021.lower[ARM_DOF:].astype(np.float64),
        upper=FR3_DEXHAND021.upper[ARM_DOF:].astype(np.float64),
        coupling=FR3_DEXHAND021.coupling.astype(np.float64),
        bias=np.zeros(len(names)),
        fingers=FINGERS,
        tips=tips,
        pads=tuple(pad_of(tip) for tip in tips),
        roots=tuple(Point(joint, np.zeros(3)) for joint in knuckles),
        wrist=np.zeros(3),
    )


def pad_of(tip: Point) -> Point:
    """The centre of the pad behind a tip, on the way back to the last joint."""
    length = float(np.linalg.norm(tip.offset))
    return Point(tip.joint, tip.offset * max(0.0, 1.0 - PAD_RADIUS_M / length) if length else tip.offset)


@functools.cache
def canonical_frame(hand: Hand) -> tuple[np.ndarray, np.ndarray]:
    """(origin [3] m, axes [3, 3] as columns) of the hand's canonical frame in its base frame: that of `keypoints`.

    Raises ValueError for a hand without index, middle and ring, whose knuckles give the frame.
    """
    missing = [finger for finger in PALM_FINGERS if finger not in hand.fingers]
    if missing:
        raise ValueError(
            f"{hand.name}: expected fingers index, middle and ring, which give the frame; missing: {missing}"
        )
    knuckles = [hand.roots[hand.fingers.index(finger)] for finger in PALM_FINGERS]
    return hand.wrist, canonical_axes(_points(hand, knuckles, np.zeros(hand.num_motors)) - hand.wrist)


@functools.cache
def hand_length(hand: Hand) -> float:
    """m from the wrist to the tips of index, middle and ring, their mean, every joint as near to 0 as it goes."""
    straight = np.clip(np.zeros(hand.num_motors), hand.lower, hand.upper)
    tips = _points(hand, [hand.tips[hand.fingers.index(finger)] for finger in PALM_FINGERS], straight)
    return float(np.linalg.norm(tips - hand.wrist, axis=-1).mean())


@functools.cache
def bending_joints(hand: Hand) -> np.ndarray:
    """[F, J]: 1 for the joints that bend a finger towards the palm, 0 for its other ones and for the others'."""
    _, turns = _frames(hand, np.zeros(hand.num_motors))
    bends = np.abs(np.einsum("jab,jb->ja", turns, hand.axes) @ canonical_frame(hand)[1][:, 1]) > _BENDS
    chains = [[joint in hand.chain(finger) for joint in range(len(hand.joint_names))] for finger in hand.fingers]
    return (np.array(chains) & bends).astype(np.float64)


def _frames(hand: Hand, motors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position [J, 3] m and rotation [J, 3, 3] of every joint in the base frame, at `motors` [m] rad."""
    angles = hand.coupling @ motors + hand.bias
    turns = hand.rotations @ Rotation.from_rotvec(angles[:, None] * hand.axes).as_matrix()
    positions, rotations = hand.positions.copy(), turns.copy()
    for joint, parent in enumerate(hand.parents):
        if parent != BASE:
            positions[joint] = positions[parent] + rotations[parent] @ hand.positions[joint]
            rotations[joint] = rotations[parent] @ turns[joint]
    return positions, rotations


def _points(hand: Hand, which: Sequence[Point], motors: np.ndarray) -> np.ndarray:
    """Positions [P, 3] m of points in the base frame."""
    positions, rotations = _frames(hand, motors)
    at = [p.offset if p.joint == BASE else positions[p.joint] + rotations[p.joint] @ p.offset for p in which]
    return np.stack(at)
