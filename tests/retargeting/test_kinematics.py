"""Hands from files and their kinematics, against MuJoCo and against the simulator's own geometry."""

from __future__ import annotations

import dataclasses
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from dexhil.retargeting import kinematics
from dexhil.retargeting.hand import Hand, bending_joints, hand_length, points, simulated_dexhand021
from dexhil.retargeting.optimised import with_coupling
from dexhil.retargeting.urdf import CARDS, HandCard, load_urdf
from dexhil.robots.geometry import finger_tips
from dexhil.robots.spec import FR3_DEXHAND021

FILES = {name: "dexhand021_right.urdf" if name == "dexhand021" else f"{name}_hand_right.urdf" for name in CARDS}
MORE = Path(os.environ.get("DEXHIL_HANDS", "none"))  # a folder with files that ../shared/data has not


@pytest.fixture(params=["allegro", "dexhand021", *(name for name, file in FILES.items() if (MORE / file).is_file())])
def file_and_card(request: pytest.FixtureRequest, shared_data: Path) -> tuple[Path, HandCard]:
    """Of every hand that has a card and a file."""
    file = FILES[request.param]
    path = MORE / file if (MORE / file).is_file() else shared_data / "hands" / "urdf" / file
    return path, CARDS[request.param]


def random_motors(hand: Hand, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(hand.lower, hand.upper), jnp.float32)


def mujoco_hand(path: Path) -> mujoco.MjModel:
    """The URDF file as MuJoCo reads it, without the meshes that are not there."""
    root = ElementTree.parse(path).getroot()
    for link in root.iter("link"):
        for part in [*link.findall("visual"), *link.findall("collision")]:
            link.remove(part)
        if link.find("inertial") is None:
            inertial = ElementTree.SubElement(link, "inertial")
            ElementTree.SubElement(inertial, "mass", value="1")
            ElementTree.SubElement(inertial, "inertia", ixx="1", iyy="1", izz="1", ixy="0", ixz="0", iyz="0")
    for extra in root.findall("mujoco"):
        root.remove(extra)
    options = ElementTree.SubElement(root, "mujoco")
    ElementTree.SubElement(options, "compiler", fusestatic="false", balanceinertia="true")
    return mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))


def test_tips_of_a_urdf_hand_are_where_mujoco_has_them(file_and_card: tuple[Path, HandCard]) -> None:
    path, card = file_and_card
    hand, model = load_urdf(path, card), mujoco_hand(path)
    data, tips = mujoco.MjData(model), jax.jit(lambda motors: points(hand, hand.tips, motors, jnp))
    for seed in range(5):
        motors = random_motors(hand, seed)
        angles = hand.coupling @ np.asarray(motors) + hand.bias
        for name, angle in zip(hand.joint_names, angles, strict=True):
            data.qpos[model.joint(name).qposadr[0]] = angle
        mujoco.mj_kinematics(model, data)
        expected = np.stack([data.body(link).xpos for link in card.tips.values()])
        np.testing.assert_allclose(tips(motors), expected, atol=1e-6)


def test_every_hand_of_a_file_is_a_right_hand_that_bends_into_its_palm(file_and_card: tuple[Path, HandCard]) -> None:
    hand = load_urdf(*file_and_card)
    assert 0.14 < hand_length(hand) < 0.26
    robot = kinematics.CanonicalHand(hand)
    straight = np.clip(np.zeros(hand.num_motors), hand.lower, hand.upper)
    for index, finger in enumerate(hand.fingers[1:], start=1):
        bends = (bending_joints(hand)[index] @ hand.coupling) > 0
        bent = np.where(bends, 0.5 * hand.upper, straight)
        moved = (robot.tips(bent[None]) - robot.tips(straight[None]))[0, index]
        assert moved[0] > 0.03, finger
        assert moved[2] < -0.03, finger
        assert robot.bending(bent[None], finger) > 1.0
    across = robot.tips(straight[None])[0, :, 1]
    assert (np.diff(across) < 0).all()  # thumb, index … little


def test_turning_a_finger_about_its_own_axis_is_not_bending(shared_data: Path) -> None:
    hand = load_urdf(shared_data / "hands" / "urdf" / FILES["allegro"], CARDS["allegro"])
    row = bending_joints(hand)[hand.fingers.index("index")]
    assert [name for name, bends in zip(hand.joint_names, row, strict=True) if bends] == [
        *("joint_1.0", "joint_2.0", "joint_3.0")
    ]


def test_peers_get_a_file_in_which_joints_are_coupled_as_the_card_says(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "hands" / "urdf" / FILES["dexhand021"]
    tree, hand = ElementTree.parse(path), load_urdf(path, CARDS["dexhand021"])
    with_coupling(tree.getroot(), CARDS["dexhand021"], hand)
    tree.write(tmp_path / "dexhand021_right.urdf")
    again = load_urdf(
        tmp_path / "dexhand021_right.urdf", dataclasses.replace(CARDS["dexhand021"], coupled={}, locked=())
    )
    assert again.motor_names == hand.motor_names
    np.testing.assert_array_equal(again.coupling, hand.coupling)
    np.testing.assert_allclose([again.lower, again.upper], [hand.lower, hand.upper])


def test_jax_and_numpy_have_the_tips_at_the_same_places() -> None:
    hand = simulated_dexhand021()
    motors = np.random.default_rng(0).uniform(hand.lower, hand.upper, (5, 2, 12))
    np.testing.assert_allclose(points(hand, hand.tips, jnp.asarray(motors), jnp), finger_tips(motors), atol=1e-6)


def test_the_simulated_hand_is_the_vendors_to_a_millimetre(shared_data: Path) -> None:
    ours = simulated_dexhand021()
    vendors = load_urdf(shared_data / "hands" / "urdf" / FILES["dexhand021"], CARDS["dexhand021"])
    assert vendors.motor_names == ours.motor_names == FR3_DEXHAND021.joint_names[7:]
    for seed in range(20):
        motors = random_motors(ours, seed)
        gap = points(vendors, vendors.tips, motors, jnp) - points(ours, ours.tips, motors, jnp)
        assert np.abs(gap).max() < 1e-3


def test_gradients_match_finite_differences() -> None:
    hand = simulated_dexhand021()
    with jax.enable_x64(True):
        motors = jnp.asarray(np.random.default_rng(0).uniform(hand.lower, hand.upper))

        def tips(q: jax.Array) -> jax.Array:
            return points(hand, hand.tips, q, jnp).ravel()

        exact, step = jax.jacfwd(tips)(motors), 1e-6
        for motor in range(hand.num_motors):
            change = jnp.zeros(hand.num_motors).at[motor].set(step)
            np.testing.assert_allclose(
                exact[:, motor], (tips(motors + change) - tips(motors - change)) / (2 * step), atol=1e-8
            )


def test_a_motor_belongs_to_the_fingers_that_it_moves() -> None:
    hand = simulated_dexhand021()
    jacobian = jax.jacfwd(lambda q: points(hand, hand.tips, q, jnp))(random_motors(hand, 1))
    for finger, rows in zip(hand.fingers, np.asarray(jacobian), strict=True):
        np.testing.assert_array_equal(np.abs(rows).max(axis=0) > 1e-6, hand.motors_of(finger))
