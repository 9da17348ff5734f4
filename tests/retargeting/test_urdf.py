"""Hands from URDF files: what is read, and every damage refused with one clear line."""

from __future__ import annotations

import dataclasses
import signal
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dexhil.retargeting.urdf import CARDS, HandCard, load_urdf
from tests.retargeting.urdf_files import at, hand_urdf

ALLEGRO, INSPIRE = CARDS["allegro"], CARDS["inspire"]


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """A reader that walks in a circle fails its test instead of hanging."""

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)


def test_mimic_joints_follow_their_motor(tmp_path: Path) -> None:
    hand = load_urdf(
        hand_urdf(tmp_path, (at("index_intermediate_joint", 'multiplier="1.0"', 'multiplier="2" offset="0.5"'),)),
        INSPIRE,
    )
    assert hand.motor_names == (
        *("thumb_proximal_yaw_joint", "thumb_proximal_pitch_joint"),
        *(f"{finger}_proximal_joint" for finger in ("index", "middle", "ring", "pinky")),
    )
    row, motor = hand.joint_names.index("index_intermediate_joint"), hand.motor_names.index("index_proximal_joint")
    assert (hand.coupling[row, motor], hand.bias[row]) == (2.0, 0.5)
    assert hand.upper[motor] == pytest.approx(0.6)  # where the second joint, at 0.5 + 2 q, ends


def test_a_motor_may_be_called_as_the_robot_calls_it(tmp_path: Path) -> None:
    card = dataclasses.replace(INSPIRE, motors={"ring_proximal_joint": "ring_mcp"})
    hand = load_urdf(hand_urdf(tmp_path), card)
    assert hand.motor_names[4] == "ring_mcp"
    assert hand.joint_names == load_urdf(hand_urdf(tmp_path), INSPIRE).joint_names


def test_a_wrist_that_moves_is_refused_unless_its_joint_is_locked(tmp_path: Path) -> None:
    turns = '<axis xyz="1 0 0"/><limit lower="-0.5" upper="0.5"/></joint>'
    forearm = (
        r"(<joint)",
        rf'<joint name="WRJ" type="revolute"><parent link="arm"/><child link="base_link"/>{turns}\1',
    )
    path, card = hand_urdf(tmp_path, (forearm,)), dataclasses.replace(INSPIRE, wrist="base_link")
    with pytest.raises(ValueError, match="names 'base_link' as wrist, which 'WRJ' moves; name a link of the palm, or"):
        load_urdf(path, card)
    hand = load_urdf(path, dataclasses.replace(card, locked=("WRJ",)))
    assert hand.motor_names == load_urdf(hand_urdf(tmp_path), INSPIRE).motor_names


def test_a_left_hand_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"hand\.urdf: the fingers bend out of the back of a right hand.* it is a left one"
    ):
        load_urdf(hand_urdf(tmp_path, side=-1.0), INSPIRE)


def test_the_mirror_image_of_a_makers_hand_is_refused(shared_data: Path, tmp_path: Path) -> None:
    text = (shared_data / "hands" / "urdf" / "allegro_hand_right.urdf").read_text()
    assert load_urdf(shared_data / "hands" / "urdf" / "allegro_hand_right.urdf", ALLEGRO).num_motors == 16
    root = ElementTree.fromstring(text)
    for origin in root.iter("origin"):  # the reflection y -> -y: of positions, rotations and (as axial vectors) axes
        x, y, z = (float(n) for n in origin.get("xyz", "0 0 0").split())
        roll, pitch, yaw = (float(n) for n in origin.get("rpy", "0 0 0").split())
        origin.attrib.update(xyz=f"{x} {-y} {z}", rpy=f"{-roll} {pitch} {-yaw}")
    for axis in root.iter("axis"):
        x, y, z = (float(n) for n in axis.attrib["xyz"].split())
        axis.set("xyz", f"{-x} {y} {-z}")
    ElementTree.ElementTree(root).write(tmp_path / "left.urdf")
    with pytest.raises(ValueError, match=r"left\.urdf: the fingers bend out of the back .* a left one"):
        load_urdf(tmp_path / "left.urdf", ALLEGRO)


DAMAGE = {
    "mimic circle of two": (
        (
            at("ring_intermediate_joint", 'mimic joint="[^"]*"', 'mimic joint="pinky_intermediate_joint"'),
            at("pinky_intermediate_joint", 'mimic joint="[^"]*"', 'mimic joint="ring_intermediate_joint"'),
        ),
        "ring_intermediate_joint -> pinky_intermediate_joint -> ring_intermediate_joint mimic each other in a circle",
    ),
    "mimic of itself": (
        (at("ring_intermediate_joint", 'mimic joint="[^"]*"', 'mimic joint="ring_intermediate_joint"'),),
        "ring_intermediate_joint -> ring_intermediate_joint mimic each other",
    ),
    "mimic of an unknown joint": (
        (at("index_intermediate_joint", 'mimic joint="[^"]*"', 'mimic joint="R_index_proximal_joint"'),),
        "'index_intermediate_joint' mimics 'R_index_proximal_joint', which the file does not have; did you mean 'index",
    ),
    "mimic of nothing": (
        (at("index_intermediate_joint", 'mimic joint="[^"]*"', "mimic"),),
        "'index_intermediate_joint' mimics '', which the file does not have",
    ),
    "mimic of a fixed joint": (
        (at("index_intermediate_joint", 'mimic joint="[^"]*"', 'mimic joint="index_tip_joint"'),),
        "mimics 'index_tip_joint', which does not move",
    ),
    "mimic by no number": (
        (at("index_intermediate_joint", 'multiplier="1.0"', 'multiplier="one"'),),
        "'index_intermediate_joint': expected mimic multiplier as in '1', got 'one'",
    ),
    "the same name twice": (
        ((r'"ring_proximal_joint" type', '"pinky_proximal_joint" type'),),
        "two joints called 'pinky_proximal_joint'; expected one",
    ),
    "a link with two parents": (
        (at("ring_proximal_joint", 'child link="ring_1"', 'child link="pinky_1"'),),
        "two joints that carry the link 'pinky_1'",
    ),
    "a joint without a name": (((r' name="ring_proximal_joint"', ""),), "joint '': expected a name, a type, and links"),
    "a joint without a type": (
        (at("ring_proximal_joint", ' type="revolute"', ""),),
        "'ring_proximal_joint': expected a name, a type",
    ),
    "a joint without a parent": (
        (at("ring_proximal_joint", '<parent link="base_link"/>', ""),),
        "'ring_proximal_joint': expected a name",
    ),
    "a joint without a child": (
        (at("ring_proximal_joint", '<child link="ring_1"/>', ""),),
        "'ring_proximal_joint': expected a name",
    ),
    "a missing joint": (
        (('<joint name="ring_proximal_joint".*?</joint>', ""),),
        "the links base_link, ring_1 hang on nothing",
    ),
    "several roots": (
        (at("ring_proximal_joint", 'parent link="base_link"', 'parent link="palm"'),),
        "the links base_link, palm hang on nothing; expected one base link",
    ),
    "a circle of links": (
        (at("ring_proximal_joint", 'parent link="base_link"', 'parent link="ring_2"'),),
        "the links ring_1 -> ring_2 -> ring_1 hang on each other in a circle",
    ),
    "a slider": ((at("ring_proximal_joint", "revolute", "prismatic"),), "'ring_proximal_joint' is prismatic; exp"),
    "no limits": (
        (at("ring_proximal_joint", "<limit[^>]*/>", ""), at("ring_intermediate_joint", "<limit[^>]*/>", "")),
        r"'ring_proximal_joint': expected limits with lower < upper, got \[-inf, inf\]",
    ),
    "limits the wrong way round": (
        (at("ring_proximal_joint", 'lower="0" upper="1.7"', 'lower="1.7" upper="0"'),),
        "'ring_proximal_joint': expected limits with lower < upper",
    ),
    "limits that are no numbers": (
        (at("ring_proximal_joint", 'upper="1.7"', 'upper="${pi/2}"'),),
        r"'ring_proximal_joint': expected limit upper as in '0', got '\$\{pi/2\}'",
    ),
    "limits that are not finite": (
        (at("ring_proximal_joint", 'upper="1.7"', 'upper="nan"'),),
        "expected limit upper as in '0', got 'nan'",
    ),
    "an axis without length": (
        (at("ring_proximal_joint", 'axis xyz="[^"]*"', 'axis xyz="0 0 0"'),),
        "'ring_proximal_joint' turns about an axis without length",
    ),
    "an axis of two numbers": (
        (at("ring_proximal_joint", 'axis xyz="[^"]*"', 'axis xyz="0 1"'),),
        "'ring_proximal_joint': expected axis xyz as in '1 0 0', got '0 1'",
    ),
    "a place that is no number": (
        (at("ring_proximal_joint", 'origin xyz="[^"]*"', 'origin xyz="a b c"'),),
        "'ring_proximal_joint': expected origin xyz as in '0 0 0', got 'a b c'",
    ),
    "a knuckle that is fixed": (
        (at("ring_proximal_joint", "revolute", "fixed"), at("ring_intermediate_joint", "<mimic[^>]*/>", "")),
        "names 'ring_proximal_joint' as a root, which is fixed or locked",
    ),
    "knuckles in a line with the wrist": (
        tuple(
            at(f"{f}_proximal_joint", 'origin xyz="[^"]*"', 'origin xyz="0 0.007 0.14"')
            for f in ("index", "middle", "ring")
        ),
        "roots of index, middle and ring are in one point or line with the wrist",
    ),
    "no XML": ((("</robot>", ""),), "is not XML"),
    "no joint at all": ((("<joint.*</joint>", ""),), "expected a URDF file with joints, found none"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    changes, message = DAMAGE[damage]
    with pytest.raises(ValueError, match=rf"hand\.urdf: .*{message}"):
        load_urdf(hand_urdf(tmp_path, changes), INSPIRE)


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ('<link name="base_link"/><link name="ring_l"/>', "names the link 't0', which the file does not have"),
        ('<link name="base_link"/><link name="base_link"/>', "two links called 'base_link'; expected one"),
    ],
)
def test_links_that_do_not_fit_the_joints_are_refused(tmp_path: Path, links: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"hand\.urdf: .*{message}"):
        load_urdf(hand_urdf(tmp_path, links=links), INSPIRE)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (HandCard({}, {}), r"gives tips of \[\]; expected thumb first"),
        (HandCard({"index": "b"}, {"index": "j"}), r"gives tips of \['index'\]; expected thumb first"),
        (HandCard(INSPIRE.tips, {}), r"gives roots of \[\]; expected those of \['thumb', 'index'"),
        (ALLEGRO, "names 'link_15.0_tip', which the file does not have"),
        (
            dataclasses.replace(INSPIRE, roots={**INSPIRE.roots, "ring": "ring_proximal"}),
            "names 'ring_proximal'.*mean 'ring_p",
        ),
        (
            dataclasses.replace(INSPIRE, tips={**INSPIRE.tips, "ring": "pinky_tip", "little": "ring_tip"}),
            "gives 'pinky_tip' as tip of the ring, which its root 'ring_proximal_joint' does not move",
        ),
        (
            dataclasses.replace(INSPIRE, coupled={"ring_proximal_joint": ("ring_intermediate_joint", 1.0)}),
            "ring_proximal_joint -> ring_intermediate_joint -> ring_proximal_joint mimic each other in a circle",
        ),
        (
            dataclasses.replace(
                INSPIRE, coupled={f"thumb_proximal_{j}_joint": ("index_proximal_joint", 0.1) for j in ("yaw", "pitch")}
            ),
            "no joint moves the thumb alone",
        ),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path: Path, card: HandCard, message: str) -> None:
    with pytest.raises(ValueError, match=rf"hand\.urdf: .*{message}"):
        load_urdf(hand_urdf(tmp_path), card)


def test_fixed_joints_may_have_any_axis_and_nested_joints_are_no_joints(tmp_path: Path) -> None:
    fixed = at("index_tip_joint", "</joint>", '<axis xyz="0 0 0"/></joint>')
    nested = ("</robot>", '<transmission><joint name="index_proximal_joint"/></transmission></robot>')
    hand = load_urdf(hand_urdf(tmp_path, (fixed, nested)), INSPIRE)
    np.testing.assert_allclose(np.linalg.norm(hand.axes, axis=1), 1.0)
