"""Robot hands as data: the tree of joints, what drives them, and where finger tips, pads and knuckles are. NumPy only.

A hand comes from a URDF file (`urdf`) or is the simulator's own, `simulated_dexhand021`. Its canonical frame is that of
`keypoints`: wrist at the origin, z to the middle knuckle, x out of the palm.
"""

import dataclasses
import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from dexhil.retargeting.keypoints import PALM_FINGERS, canonical_axes
from dexhil.robots.geometry import DEXHAND_TREE, FINGERS, TIP_IN_DIP_M
from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.robots.tree import BASE, Tree
from dexhil.schema import ARM_DOF

PAD_RADIUS_M = 0.012  # a finger pad is a sphere whose centre is its radius behind the tip
_BENDS = 0.7  # a joint whose axis is this much along the row of knuckles bends a finger, any other spreads or turns it


@dataclasses.dataclass(frozen=True)
class Point:
    """joint: index of the joint whose link carries the point, BASE for the hand's base. offset: [3] m in its frame."""

    joint: int
    offset: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Hand(Tree):
    """A hand whose J hinges are driven by m motors.

    motor_names: m names. lower, upper: [m] rad. coupling [J, m], bias [J] rad: joints = coupling @ motors + bias.
    fingers: names among FINGERS, thumb first. tips, roots: a point of each finger; a root is its knuckle.
    wrist: [3] m, where the human wrist would be, in the base frame.
    """

    name: str
    motor_names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    coupling: np.ndarray
    bias: np.ndarray
    fingers: tuple[str, ...]
    tips: tuple[Point, ...]
    roots: tuple[Point, ...]
    wrist: np.ndarray

    @functools.cached_property
    def pads(self) -> tuple[Point, ...]:
        """The centre of each finger's pad: behind the tip, on the way back to the last joint."""
        lengths = [max(float(np.linalg.norm(tip.offset)), PAD_RADIUS_M) for tip in self.tips]
        scales = [1.0 - PAD_RADIUS_M / length for length in lengths]
        return tuple(Point(tip.joint, tip.offset * scale) for tip, scale in zip(self.tips, scales, strict=True))

    @property
    def num_motors(self) -> int:
        return len(self.motor_names)

    def joints(self, motors: Any) -> Any:
        """Angles [..., J] rad of all joints at `motors` [..., m] rad; NumPy or JAX."""
        return motors @ self.coupling.T.astype(motors.dtype) + self.bias.astype(motors.dtype)

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
    tree, names = DEXHAND_TREE, DEXHAND_TREE.joint_names
    knuckles = [names.index("thumb_rotation"), *(names.index(f"{finger}_mcp") for finger in FINGERS[1:])]
    return Hand(
        name="simulated_dexhand021",
        **{field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)},
        motor_names=FR3_DEXHAND021.joint_names[ARM_DOF:],
        lower=FR3_DEXHAND021.lower[ARM_DOF:].astype(np.float64),
        upper=FR3_DEXHAND021.upper[ARM_DOF:].astype(np.float64),
        coupling=FR3_DEXHAND021.coupling.astype(np.float64),
        bias=np.zeros(len(names)),
        fingers=FINGERS,
        tips=tuple(Point(names.index(f"{finger}_dip"), TIP_IN_DIP_M) for finger in FINGERS),
        roots=tuple(Point(joint, np.zeros(3)) for joint in knuckles),
        wrist=np.zeros(3),
    )


@functools.cache
def canonical_frame(hand: Hand) -> tuple[np.ndarray, np.ndarray]:
    """(origin [3] m, axes [3, 3] as columns) of the hand's canonical frame in its base frame: that of `keypoints`.

    Raises:
        ValueError: the hand lacks index, middle or ring, whose knuckles give the frame.
    """
    missing = [finger for finger in PALM_FINGERS if finger not in hand.fingers]
    if missing:
        raise ValueError(
            f"{hand.name}: expected fingers index, middle and ring, which give the frame; missing: {missing}"
        )
    knuckles = [hand.roots[hand.fingers.index(finger)] for finger in PALM_FINGERS]
    return hand.wrist, canonical_axes(points(hand, knuckles, np.zeros(hand.num_motors)) - hand.wrist)


def check_right_hand(hand: Hand, what: str) -> None:
    """Raises ValueError, `what` named, for a hand without a palm and fingers that bend to it, or a left one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if not np.isfinite(canonical_frame(hand)[1]).all():
            raise ValueError(f"{what}: the roots of index, middle and ring are in one point or line with the wrist")
    thumb = hand.motors_of("thumb") & ~np.any([hand.motors_of(finger) for finger in hand.fingers[1:]], axis=0)
    if not thumb.any():
        raise ValueError(f"{what}: no joint moves the thumb alone; expected one at least")
    palm = [hand.fingers.index(finger) for finger in PALM_FINGERS]
    bends = (bending_joints(hand)[palm] @ hand.coupling).any(axis=0)
    straight = np.clip(np.zeros(hand.num_motors), hand.lower, hand.upper)
    bent = np.where(bends, 0.5 * np.where(hand.upper > -hand.lower, hand.upper, hand.lower), straight)
    tips = points(hand, [hand.tips[finger] for finger in palm], np.stack([straight, bent]))
    out_of_palm = float(((tips[1] - tips[0]) @ canonical_frame(hand)[1])[:, 0].mean())
    if out_of_palm < 0.0:
        raise ValueError(
            f"{what}: the fingers bend out of the back of a right hand, by {-1e3 * out_of_palm:.0f} mm: it is a left "
            "one (or the card mixes up index and ring); take the file of the right hand: key points are of one"
        )


@functools.cache
def hand_length(hand: Hand) -> float:
    """m from the wrist to the tips of index, middle and ring, their mean, every joint as near to 0 as it goes."""
    straight = np.clip(np.zeros(hand.num_motors), hand.lower, hand.upper)
    tips = points(hand, [hand.tips[hand.fingers.index(finger)] for finger in PALM_FINGERS], straight)
    return float(np.linalg.norm(tips - hand.wrist, axis=-1).mean())


@functools.cache
def bending_joints(hand: Hand) -> np.ndarray:
    """[F, J]: 1 for the joints that bend a finger towards the palm, 0 for its other ones and for the others'."""
    _, turns = hand.frames(hand.bias)
    bends = np.abs(np.einsum("jab,jb->ja", turns, hand.axes) @ canonical_frame(hand)[1][:, 1]) > _BENDS
    chains = [[joint in hand.chain(finger) for joint in range(len(hand.joint_names))] for finger in hand.fingers]
    return (np.array(chains) & bends).astype(np.float64)


def points(hand: Hand, which: Sequence[Point], motors: Any, xp: ModuleType = np) -> Any:
    """Positions [..., P, 3] m of `which` points in the base frame, at `motors` [..., m] rad; xp: jnp or np."""
    positions, rotations = hand.frames(hand.joints(motors), xp)
    carriers, offsets = [p.joint for p in which], np.stack([p.offset for p in which]).astype(motors.dtype)
    moved = positions[..., carriers, :] + (rotations[..., carriers, :, :] @ offsets[:, :, None])[..., 0]
    return xp.where(np.array(carriers)[:, None] == BASE, offsets, moved)
