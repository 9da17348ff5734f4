"""Robot hands from URDF files. A `HandCard` says what a URDF does not: tips, knuckles, joints of one motor."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.names import did_you_mean
from dexhil.retargeting.hand import BASE, DEXHAND_WRIST_M, Hand, Point, pad_of
from dexhil.retargeting.keypoints import PALM_FINGERS
from dexhil.robots.geometry import FINGERS


@dataclasses.dataclass(frozen=True)
class HandCard:
    """What a URDF file does not say.

    tips: finger -> link of its tip, thumb first. roots: finger -> the joint at its knuckle. wrist: where the human
    wrist would be, a link or m in the base frame. coupled: joint -> (joint that its motor drives first, ratio);
    `<mimic>` elements count without being named. locked: joints that stay at 0.
    """

    tips: Mapping[str, str]
    roots: Mapping[str, str]
    wrist: str | tuple[float, float, float] = (0.0, 0.0, 0.0)
    coupled: Mapping[str, tuple[str, float]] = dataclasses.field(default_factory=dict)
    locked: tuple[str, ...] = ()


ALLEGRO = HandCard(
    tips={"thumb": "link_15.0_tip", "index": "link_3.0_tip", "middle": "link_7.0_tip", "ring": "link_11.0_tip"},
    roots={"thumb": "joint_12.0", "index": "joint_1.0", "middle": "joint_5.0", "ring": "joint_9.0"},
    wrist="wrist",
)
_DIGITS = dict(zip(FINGERS, range(1, 6), strict=True))
DEXHAND021 = HandCard(
    tips={finger: f"r_f_link{digit}_tip" for finger, digit in _DIGITS.items()},
    roots={finger: f"r_f_joint{digit}_{1 if finger == 'thumb' else 2}" for finger, digit in _DIGITS.items()},
    coupled={
        "r_f_joint1_4": ("r_f_joint1_3", 1.0),
        **{f"r_f_joint{digit}_4": (f"r_f_joint{digit}_3", 1.0) for digit in range(2, 6)},
        "r_f_joint4_1": ("r_f_joint2_1", 1.0),
        "r_f_joint5_1": ("r_f_joint2_1", 2.0),
    },
    wrist=DEXHAND_WRIST_M,
    locked=("r_f_joint3_1",),
)
LEAP = HandCard(
    tips={finger: f"{finger}_tip_head" for finger in FINGERS[:4]},
    roots={"thumb": "12", "index": "1", "middle": "5", "ring": "9"},
)
_SHADOW = dict(zip(FINGERS, ("TH", "FF", "MF", "RF", "LF"), strict=True))
SHADOW = HandCard(
    tips={finger: f"{letters.lower()}tip" for finger, letters in _SHADOW.items()},
    roots={finger: f"{letters}J{5 if finger == 'thumb' else 4}" for finger, letters in _SHADOW.items()},
    wrist="palm",
    coupled={f"{letters}J1": (f"{letters}J2", 1.0) for letters in ("FF", "MF", "RF", "LF")},
    locked=("WRJ1", "WRJ2"),
)
_INSPIRE = dict(zip(FINGERS, ("thumb", "index", "middle", "ring", "pinky"), strict=True))
INSPIRE = HandCard(
    tips={finger: f"{name}_tip" for finger, name in _INSPIRE.items()},
    roots={finger: f"{name}_proximal_{'yaw_' if finger == 'thumb' else ''}joint" for finger, name in _INSPIRE.items()},
    wrist=(0.0, 0.007, 0.073),
)
# For the files of right hands of their makers, as dex-urdf collects them.
CARDS = {"allegro": ALLEGRO, "dexhand021": DEXHAND021, "inspire": INSPIRE, "leap": LEAP, "shadow": SHADOW}


def load_urdf(path: str | Path, card: HandCard) -> Hand:
    """The hand that a URDF file and a card describe, called like the file; meshes are not looked at.

    Raises ValueError where the file is no URDF, has a joint that is no hinge, or lacks what the card names.
    """
    path = Path(path)
    _check_fingers(path, card)
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: expected a URDF file, but it is not XML: {error}") from None
    joints = {joint.attrib["name"]: joint for joint in root.iter("joint") if joint.find("child") is not None}
    if not joints:
        raise ValueError(f"{path}: expected a URDF file with joints, found none")
    links = _Links(path, joints, card.locked)
    for link in (*card.tips.values(), *([card.wrist] if isinstance(card.wrist, str) else ())):
        _check_named(path, link, links.of_child)
    for joint in (*card.roots.values(), *card.coupled, *(first for first, _ in card.coupled.values()), *card.locked):
        _check_named(path, joint, joints)
    names = links.hinges
    motors, coupling, bias = _motors(joints, names, card)
    lower, upper = _limits(path, [joints[name] for name in names], motors, coupling, bias)
    carriers = [links.carrier(joints[name]) for name in names]
    tips = tuple(links.point(joints[links.of_child[link]]) for link in card.tips.values())
    return Hand(
        name=path.stem,
        joint_names=names,
        parents=tuple(parent for parent, _ in carriers),
        positions=np.array([frame[:3, 3] for _, frame in carriers]),
        rotations=np.array([frame[:3, :3] for _, frame in carriers]),
        axes=np.array([_axis(joints[joint]) for joint in names]),
        motor_names=motors,
        lower=lower,
        upper=upper,
        coupling=coupling,
        bias=bias,
        fingers=tuple(card.tips),
        tips=tips,
        pads=tuple(pad_of(tip) for tip in tips),
        roots=tuple(Point(names.index(joint), np.zeros(3)) for joint in card.roots.values()),
        wrist=links.wrist(card.wrist),
    )


class _Links:
    """The tree of a URDF file with its fixed and locked joints folded away.

    hinges: names of the movable joints, a parent before its children. of_child: link -> the joint that carries it.
    """

    def __init__(self, path: Path, joints: Mapping[str, ElementTree.Element], locked: Sequence[str]) -> None:
        self._path, self._joints, self._locked = path, joints, locked
        self.of_child = {_link(joint, "child"): name for name, joint in joints.items()}
        hinges: list[str] = []
        for name, joint in joints.items():
            kind = joint.attrib["type"]
            if kind not in ("revolute", "continuous", "fixed"):
                raise ValueError(f"{path}: joint {name!r} is {kind}; expected hinges (revolute) and fixed joints only")
            self._add_hinges(name, hinges)
        self.hinges = tuple(hinges)

    def _add_hinges(self, name: str, hinges: list[str]) -> None:
        """Adds the joint's ancestors and itself, in the file's order otherwise."""
        parent = _link(self._joints[name], "parent")
        if parent in self.of_child:
            self._add_hinges(self.of_child[parent], hinges)
        moves = self._joints[name].attrib["type"] != "fixed" and name not in self._locked
        if moves and name not in hinges:
            hinges.append(name)

    def carrier(self, joint: ElementTree.Element) -> tuple[int, np.ndarray]:
        """(hinge that carries `joint` or BASE, the joint's frame [4, 4] at angle 0 in that hinge's)."""
        frame, parent = _origin(joint), _link(joint, "parent")
        while parent in self.of_child:
            above = self.of_child[parent]
            if above in self.hinges:
                return self.hinges.index(above), frame
            frame, parent = _origin(self._joints[above]) @ frame, _link(self._joints[above], "parent")
        return BASE, frame

    def point(self, joint: ElementTree.Element) -> Point:
        """The origin of the link that `joint` carries."""
        if joint.attrib["name"] in self.hinges:
            return Point(self.hinges.index(joint.attrib["name"]), np.zeros(3))
        carrier, frame = self.carrier(joint)
        return Point(carrier, frame[:3, 3])

    def wrist(self, where: str | tuple[float, float, float]) -> np.ndarray:
        """[3] m in the base frame. Raises ValueError for a link that moves."""
        if not isinstance(where, str):
            return np.array(where)
        point = self.point(self._joints[self.of_child[where]])
        if point.joint != BASE:
            raise ValueError(
                f"{self._path}: the hand's card names {where!r} as wrist, which {self.hinges[point.joint]!r} moves; "
                "name a link of the palm, or lock that joint"
            )
        return point.offset


def _motors(
    joints: Mapping[str, ElementTree.Element], names: tuple[str, ...], card: HandCard
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """(motor names, coupling [J, m], bias [J]); a motor is called like the joint that it drives first."""
    driven = {name: (first, ratio, 0.0) for name, (first, ratio) in card.coupled.items()}
    for name in names:
        mimic = joints[name].find("mimic")
        if mimic is not None:
            ratio, offset = float(mimic.get("multiplier", 1.0)), float(mimic.get("offset", 0.0))
            driven.setdefault(name, (mimic.attrib["joint"], ratio, offset))
    motors = tuple(name for name in names if name not in driven)
    coupling, bias = np.zeros((len(names), len(motors))), np.zeros(len(names))
    for row, name in enumerate(names):
        factor, offset = 1.0, 0.0
        while name in driven:
            name, ratio, shift = driven[name]
            factor, offset = factor * ratio, offset + factor * shift
        coupling[row, motors.index(name)], bias[row] = factor, offset
    return motors, coupling, bias


def _limits(
    path: Path, joints: Sequence[ElementTree.Element], motors: tuple[str, ...], coupling: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ranges [m] of the motors in which all joints that they drive are within theirs."""
    lower, upper = np.full(len(motors), -np.inf), np.full(len(motors), np.inf)
    for joint, row, shift in zip(joints, coupling, bias, strict=True):
        limit = joint.find("limit")
        if limit is None or joint.attrib["type"] != "revolute":
            continue
        for motor in np.flatnonzero(row):
            ends = sorted((float(limit.get(end, 0.0)) - shift) / row[motor] for end in ("lower", "upper"))
            lower[motor], upper[motor] = max(lower[motor], ends[0]), min(upper[motor], ends[1])
    for motor, low, high in zip(motors, lower, upper, strict=True):
        if not (low < high and np.isfinite([low, high]).all()):
            raise ValueError(f"{path}: joint {motor!r}: expected limits with lower < upper, got [{low:g}, {high:g}]")
    return lower, upper


def _origin(joint: ElementTree.Element) -> np.ndarray:
    """Frame [4, 4] of a joint in its parent link; `rpy` are rotations about the fixed x, y and z axes."""
    origin, frame = joint.find("origin"), np.eye(4)
    if origin is not None:
        frame[:3, 3] = _numbers(origin.get("xyz", "0 0 0"))
        frame[:3, :3] = Rotation.from_euler("xyz", _numbers(origin.get("rpy", "0 0 0"))).as_matrix()
    return frame


def _axis(joint: ElementTree.Element) -> np.ndarray:
    axis = joint.find("axis")
    vector = np.array([1.0, 0.0, 0.0]) if axis is None else _numbers(axis.attrib["xyz"])
    return vector / np.linalg.norm(vector)


def _numbers(text: str) -> np.ndarray:
    return np.array([float(number) for number in text.split()])


def _link(joint: ElementTree.Element, end: str) -> str:
    element = joint.find(end)
    assert element is not None
    return element.attrib["link"]


def _check_fingers(path: Path, card: HandCard) -> None:
    """Raises ValueError where the card has not the fingers that retargeting needs, thumb first, each with its root."""
    fingers = list(card.tips)
    if fingers[:1] != ["thumb"] or not {"thumb", *PALM_FINGERS} <= set(fingers) <= set(FINGERS):
        raise ValueError(
            f"{path}: the hand's card gives tips of {fingers}; expected thumb first, then index, middle and ring, "
            "and perhaps little"
        )
    if list(card.roots) != fingers:
        raise ValueError(f"{path}: the hand's card gives roots of {list(card.roots)}; expected those of {fingers}")


def _check_named(path: Path, name: str, known: Iterable[str]) -> None:
    """Raises ValueError with the nearest name where `name` is not among `known`."""
    known = list(known)
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"{path}: the hand's card names {name!r}, which the file does not have{hint}")
