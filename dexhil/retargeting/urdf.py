"""Robot hands from URDF files. A `HandCard` says what a URDF does not: tips, knuckles, joints of one motor."""

import dataclasses
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.names import did_you_mean
from dexhil.retargeting.hand import Hand, Point, check_right_hand
from dexhil.retargeting.keypoints import PALM_FINGERS
from dexhil.robots.geometry import FINGERS
from dexhil.robots.tree import BASE


@dataclasses.dataclass(frozen=True)
class HandCard:
    """What a URDF file does not say.

    Attributes:
        tips: finger -> link of its tip, thumb first.
        roots: finger -> the joint at its knuckle.
        wrist: where the human wrist would be, a link or m in the base frame.
        coupled: joint -> (joint that its motor drives first, ratio); `<mimic>` elements count without being named.
        locked: joints that stay at 0.
        motors: joint -> what the robot calls the motor that drives it, where that is another name.
    """

    tips: Mapping[str, str]
    roots: Mapping[str, str]
    wrist: str | Sequence[float] = (0.0, 0.0, 0.0)
    coupled: Mapping[str, tuple[str, float]] = dataclasses.field(default_factory=dict)
    locked: Sequence[str] = ()
    motors: Mapping[str, str] = dataclasses.field(default_factory=dict)


CARDS = {
    name: HandCard(**card)
    for name, card in tomllib.loads(Path(__file__).with_name("hands.toml").read_text("utf-8")).items()
}


@dataclasses.dataclass(frozen=True)
class _Joint:
    """One joint of a file. frame: [4, 4] in its parent link, at angle 0. mimic: (joint, ratio, offset rad) or None."""

    name: str
    kind: str
    parent: str
    child: str
    frame: np.ndarray
    axis: np.ndarray
    limits: tuple[float, float]
    mimic: tuple[str, float, float] | None


def load_urdf(path: str | Path, card: HandCard) -> Hand:
    """The right hand that a URDF file and a card describe, called like the file; meshes are not looked at.

    Raises:
        ValueError: the file is no URDF of one tree of hinges, lacks what the card names, or is of a left hand.
    """
    path = Path(path)
    _check_fingers(path, card)
    joints = _read_joints(path)
    links = _Links(path, joints, card)
    named_links = [*card.tips.values(), *([card.wrist] if isinstance(card.wrist, str) else ())]
    named_joints = [*card.roots.values(), *card.coupled, *(first for first, _ in card.coupled.values()), *card.locked]
    for names, known in ((named_links, links.of_child), (named_joints, joints)):
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known)
                raise ValueError(f"{path}: the hand's card names {name!r}, which the file does not have{hint}")
    names = tuple(links.hinges)
    motors, coupling, bias = _motors(path, joints, names, card)
    lower, upper = _limits(path, [joints[name] for name in names], motors, coupling, bias)
    carriers = [links.carriers[name] for name in names]
    hand = Hand(
        name=path.stem,
        joint_names=names,
        parents=tuple(parent for parent, _ in carriers),
        positions=np.array([frame[:3, 3] for _, frame in carriers]),
        rotations=np.array([frame[:3, :3] for _, frame in carriers]),
        axes=np.array([joints[name].axis for name in names]),
        motor_names=tuple(card.motors.get(motor, motor) for motor in motors),
        lower=lower,
        upper=upper,
        coupling=coupling,
        bias=bias,
        fingers=tuple(card.tips),
        tips=tuple(links.point(link) for link in card.tips.values()),
        roots=tuple(Point(links.hinge(joint), np.zeros(3)) for joint in card.roots.values()),
        wrist=links.wrist(card.wrist),
    )
    for finger, root in zip(hand.fingers, hand.roots, strict=True):
        if root.joint not in hand.chain(finger):
            raise ValueError(
                f"{path}: the hand's card gives {card.tips[finger]!r} as tip of the {finger}, which its root "
                f"{card.roots[finger]!r} does not move; are fingers mixed up?"
            )
    check_right_hand(hand, str(path))
    return hand


def _read_joints(path: Path) -> dict[str, _Joint]:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: expected a URDF file, but it is not XML: {error}") from None
    joints = [_read_joint(path, element) for element in root.findall("joint")]
    if not joints:
        raise ValueError(f"{path}: expected a URDF file with joints, found none")
    links = [link.get("name", "") for link in root.findall("link")]
    for what, names in (
        ("joints called", [joint.name for joint in joints]),
        ("links called", links),
        ("joints that carry the link", [joint.child for joint in joints]),
    ):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"{path}: two {what} {twice[0]!r}; expected one")
    for joint in joints:
        for link in (joint.parent, joint.child):
            if links and link not in links:
                raise ValueError(
                    f"{path}: joint {joint.name!r} names the link {link!r}, which the file does not have"
                    f"{did_you_mean(link, links)}"
                )
    _check_tree(path, joints)
    return {joint.name: joint for joint in joints}


def _read_joint(path: Path, element: ElementTree.Element) -> _Joint:
    name, kind = element.get("name", ""), element.get("type", "")
    ends = [part.get("link", "") if (part := element.find(end)) is not None else "" for end in ("parent", "child")]
    if not (name and kind and all(ends)):
        raise ValueError(f"{path}: joint {name!r}: expected a name, a type, and links as parent and child")
    if kind not in ("revolute", "continuous", "fixed"):
        raise ValueError(f"{path}: joint {name!r} is {kind}; expected hinges (revolute) and fixed joints only")

    def numbers(part: str, attribute: str, usual: str) -> np.ndarray:
        found = element.find(part)
        text = usual if found is None else found.get(attribute, usual)
        try:
            values = np.array([float(number) for number in text.split()])
        except ValueError:
            values = np.array(())
        if len(values) != len(usual.split()) or not np.isfinite(values).all():
            raise ValueError(f"{path}: joint {name!r}: expected {part} {attribute} as in {usual!r}, got {text!r}")
        return values

    frame, axis = np.eye(4), numbers("axis", "xyz", "1 0 0")
    frame[:3, 3] = numbers("origin", "xyz", "0 0 0")
    frame[:3, :3] = Rotation.from_euler("xyz", numbers("origin", "rpy", "0 0 0")).as_matrix()
    length = float(np.linalg.norm(axis))
    if kind != "fixed" and not length > 0:
        raise ValueError(f"{path}: joint {name!r} turns about an axis without length; expected one such as '0 0 1'")
    limits, mimic = (-np.inf, np.inf), element.find("mimic")
    if kind == "revolute" and element.find("limit") is not None:
        limits = low, high = numbers("limit", "lower", "0").item(), numbers("limit", "upper", "0").item()
        if low > high:
            raise ValueError(f"{path}: joint {name!r}: expected limits with lower < upper, got [{low:g}, {high:g}]")
    follows = None
    if mimic is not None:
        ratio, offset = numbers("mimic", "multiplier", "1").item(), numbers("mimic", "offset", "0").item()
        follows = (mimic.get("joint", ""), ratio, offset)
    return _Joint(name, kind, ends[0], ends[1], frame, axis / (length or 1.0), limits, follows)


def _check_tree(path: Path, joints: list[_Joint]) -> None:
    above = {joint.child: joint.parent for joint in joints}
    bases = sorted({joint.parent for joint in joints} - set(above))
    if len(bases) > 1:
        raise ValueError(f"{path}: the links {', '.join(bases)} hang on nothing; expected one base link")
    for joint in joints:
        seen, link = [joint.child], joint.parent
        while link in above and link not in seen:
            seen.append(link)
            link = above[link]
        if link in seen:
            raise ValueError(f"{path}: the links {' -> '.join([*seen, link])} hang on each other in a circle")


class _Links:
    """The tree of a URDF file with its fixed and locked joints folded away: hinges, parents first, and carriers."""

    def __init__(self, path: Path, joints: Mapping[str, _Joint], card: HandCard) -> None:
        self._path, self._joints, self._locked = path, joints, card.locked
        self.of_child = {joint.child: name for name, joint in joints.items()}
        self.hinges: list[str] = []
        self.carriers: dict[str, tuple[int, np.ndarray]] = {}
        for joint in joints.values():
            self._place(joint.child)

    def _place(self, link: str) -> tuple[int, np.ndarray]:
        name = self.of_child.get(link)
        if name is None:
            return BASE, np.eye(4)
        joint = self._joints[name]
        if name not in self.carriers:
            hinge, frame = self._place(joint.parent)
            self.carriers[name] = hinge, frame @ joint.frame
            if joint.kind != "fixed" and name not in self._locked:
                self.hinges.append(name)
        return (self.hinges.index(name), np.eye(4)) if name in self.hinges else self.carriers[name]

    def point(self, link: str) -> Point:
        """The origin of `link`."""
        hinge, frame = self._place(link)
        return Point(hinge, frame[:3, 3])

    def hinge(self, name: str) -> int:
        """Index of a root's joint. Raises ValueError for one that does not move."""
        if name not in self.hinges:
            raise ValueError(f"{self._path}: the hand's card names {name!r} as a root, which is fixed or locked")
        return self.hinges.index(name)

    def wrist(self, where: str | Sequence[float]) -> np.ndarray:
        """[3] m in the base frame. Raises ValueError for a link that moves."""
        if not isinstance(where, str):
            return np.array(where)
        point = self.point(where)
        if point.joint != BASE:
            raise ValueError(
                f"{self._path}: the hand's card names {where!r} as wrist, which {self.hinges[point.joint]!r} moves; "
                "name a link of the palm, or lock that joint"
            )
        return point.offset


def _motors(
    path: Path, joints: Mapping[str, _Joint], names: tuple[str, ...], card: HandCard
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """(names of the joints with a motor, coupling [J, m], bias [J]); ValueError where joints follow in a circle."""
    driven = {name: (first, ratio, 0.0) for name, (first, ratio) in card.coupled.items()}
    driven = {name: mimic for name in names if (mimic := joints[name].mimic)} | driven
    for name, (first, _, _) in driven.items():
        if first not in names:
            why = "does not move" if first in joints else f"the file does not have{did_you_mean(first, names)}"
            raise ValueError(f"{path}: joint {name!r} mimics {first!r}, which {why}")
    motors = tuple(name for name in names if name not in driven)
    coupling, bias = np.zeros((len(names), len(motors))), np.zeros(len(names))
    for row, name in enumerate(names):
        factor, offset, seen = 1.0, 0.0, [name]
        while name in driven:
            name, ratio, shift = driven[name]
            if name in seen:
                raise ValueError(f"{path}: the joints {' -> '.join([*seen, name])} mimic each other in a circle")
            factor, offset = factor * ratio, offset + factor * shift
            seen.append(name)
        coupling[row, motors.index(name)], bias[row] = factor, offset
    return motors, coupling, bias


def _limits(
    path: Path, joints: list[_Joint], motors: tuple[str, ...], coupling: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    lower, upper = np.full(len(motors), -np.inf), np.full(len(motors), np.inf)
    for joint, row, shift in zip(joints, coupling, bias, strict=True):
        for motor in np.flatnonzero(row):
            ends = sorted((end - shift) / row[motor] for end in joint.limits)
            lower[motor], upper[motor] = max(lower[motor], ends[0]), min(upper[motor], ends[1])
    for motor, low, high in zip(motors, lower, upper, strict=True):
        if not (low < high and np.isfinite([low, high]).all()):
            raise ValueError(f"{path}: joint {motor!r}: expected limits with lower < upper, got [{low:g}, {high:g}]")
    return lower, upper


def _check_fingers(path: Path, card: HandCard) -> None:
    fingers = list(card.tips)
    if fingers[:1] != ["thumb"] or not {"thumb", *PALM_FINGERS} <= set(fingers) <= set(FINGERS):
        raise ValueError(
            f"{path}: the hand's card gives tips of {fingers}; expected thumb first, then index, middle and ring, "
            "and perhaps little"
        )
    if list(card.roots) != fingers:
        raise ValueError(f"{path}: the hand's card gives roots of {list(card.roots)}; expected those of {fingers}")
