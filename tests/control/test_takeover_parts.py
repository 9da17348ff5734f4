"""Parts of the anchored mapping, each by itself: hand, elbow, blend, and the measure of a jump."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dexhil.control.blend import lead_tips, moved_pose
from dexhil.control.takeover import Anchors, HumanCommand, Inputs, Jump, advance, elbow_posture, jump, lead_hand, start
from dexhil.robots import arm_ik
from dexhil.robots.geometry import finger_tips
from dexhil.robots.poses import IDENTITY, make_pose, rotation
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF
from tests.control.test_takeover import HAND, random_command, random_pose

LOWER, UPPER = SPEC.lower[ARM_DOF:].astype(float), SPEC.upper[ARM_DOF:].astype(float)


def led(robot: np.ndarray, way: np.ndarray) -> np.ndarray:
    """The robot's hand after the person's went along `way` [n, m]."""
    for before, after in itertools.pairwise(way):
        robot = lead_hand(robot, before, after, SPEC)
    return robot


def test_a_hand_that_is_the_persons_own_stays_so():
    rng = np.random.default_rng(0)
    way = rng.uniform(LOWER, UPPER, (20, HAND))
    np.testing.assert_allclose(led(way[0], way), way[-1], atol=1e-9)


def test_one_closing_of_a_finger_takes_most_of_its_difference_not_all_of_it():
    person = np.linspace(0.2, 0.8, 50)[:, None] * np.ones(HAND)
    room = UPPER > 0.9
    left = (person[-1] - led(person[0] - 0.15, person))[room] / 0.15
    assert (left > 0.2).all()
    assert (left < 0.5).all()


def test_a_hand_at_its_limit_stays_within_and_comes_back_with_the_person():
    closing = np.linspace(0.0, 3.0, 30)[:, None] * np.ones(HAND)
    np.testing.assert_allclose(led(UPPER - 0.1, closing), UPPER, atol=1e-6)
    assert (led(UPPER, closing[::-1]) < UPPER - 0.1).all()


def anchors_at(command: np.ndarray) -> Anchors:
    human = HumanCommand(IDENTITY.copy(), np.zeros(HAND))
    state, _ = advance(start(command), Inputs(True, human, None), SPEC)
    assert state.anchors is not None
    return state.anchors


def test_the_elbow_goes_home_with_the_distance_from_the_takeover():
    rng = np.random.default_rng(1)
    command = random_command(rng)
    anchors, home = anchors_at(command), SPEC.home[:ARM_DOF]
    away = command[:ARM_DOF] - home
    here = anchors.pose_base_ee
    np.testing.assert_allclose(elbow_posture(anchors, here, SPEC), command[:ARM_DOF], atol=1e-5)
    for axis in np.vstack([np.eye(3), -np.eye(3)]):
        moved = make_pose(here[:3] + 0.05 * axis, rotation(here))
        np.testing.assert_allclose(elbow_posture(anchors, moved, SPEC), home + away / np.e, atol=1e-4)
        turned = Rotation.from_rotvec(0.05 / arm_ik.METRES_PER_RADIAN * axis) * rotation(here)
        np.testing.assert_allclose(
            elbow_posture(anchors, make_pose(here[:3], turned), SPEC), home + away / np.e, atol=1e-4
        )


def test_a_jump_is_the_largest_joint_and_the_euclidean_norm():
    assert jump(np.zeros(2, np.float32), np.array([3.0, -4.0])) == Jump(4.0, 5.0)


def test_a_pose_is_moved_in_the_base_frame_as_the_target_is_from_the_anchor():
    rng = np.random.default_rng(2)
    policy, anchor = random_pose(rng), random_pose(rng)
    np.testing.assert_allclose(moved_pose(policy, anchor, anchor)[:3], policy[:3], atol=1e-12)
    shift, turn = np.array([0.1, -0.2, 0.3]), Rotation.from_rotvec([0.0, 0.0, 0.5])
    found = moved_pose(policy, anchor, make_pose(anchor[:3] + shift, turn * rotation(anchor)))
    np.testing.assert_allclose(found[:3], policy[:3] + shift, atol=1e-12)
    assert (rotation(found) * (turn * rotation(policy)).inv()).magnitude() < 1e-9


def test_finger_tips_go_as_far_as_the_persons_from_where_they_were_and_never_in_a_bound():
    robot0, human0 = LOWER + 0.3 * (UPPER - LOWER), LOWER + 0.5 * (UPPER - LOWER)
    np.testing.assert_allclose(lead_tips(robot0, robot0, human0, human0), robot0, atol=1e-9)
    human = human0 + 0.15
    hand, wanted = robot0, finger_tips(robot0) + finger_tips(human) - finger_tips(human0)
    for _ in range(60):
        before, hand = hand, lead_tips(hand, robot0, human0, human)
        assert np.abs(hand - before).max() <= 0.1 + 1e-9
    begun, left = (np.linalg.norm(finger_tips(q) - wanted, axis=1) for q in (robot0, hand))
    assert (left < 0.3 * begun).all()


def test_a_blended_arm_goes_from_the_policys_pose_the_way_the_person_goes():
    human, policy = HumanCommand(IDENTITY.copy(), np.zeros(HAND)), SPEC.home.copy()
    command = policy
    shift, state = np.array([0.03, -0.02, 0.01]), start(SPEC.home)
    at = arm_ik.forward(SPEC.home[:ARM_DOF].astype(np.float64))
    for fraction in [0.0, 0.0, *np.linspace(0, 1, 20), *[1.0] * 20]:
        # what the cube moves by in the frame of the end effector
        human = HumanCommand(make_pose(rotation(at).inv().apply(fraction * shift), rotation(IDENTITY)), human.q_hand)
        state, decision = advance(state, Inputs(True, human, policy, blend=0.5), SPEC)
        command = decision.command
    found = arm_ik.forward(command[:ARM_DOF].astype(np.float64))
    np.testing.assert_allclose(found[:3] - at[:3], shift, atol=2e-3)


def test_in_a_blended_takeover_the_finger_tips_follow_the_persons_not_the_joints():
    human, robot = LOWER + 0.6 * (UPPER - LOWER), LOWER + 0.5 * (UPPER - LOWER)
    command, digits = np.concatenate([SPEC.home[:ARM_DOF], robot]).astype(np.float32), np.arange(HAND) >= 4
    shown, state = human, start(command)
    for fraction in [0.0, 0.0, *np.linspace(0, 1, 40), *[1.0] * 20]:
        shown = human + 0.2 * fraction * digits
        inputs = Inputs(True, HumanCommand(IDENTITY.copy(), shown), command, blend=1e-6)
        state, decision = advance(state, inputs, SPEC)
        command = decision.command
    moved = finger_tips(command[ARM_DOF:].astype(np.float64)) - finger_tips(robot)
    persons = finger_tips(shown) - finger_tips(human)
    missed, wanted = (np.linalg.norm(way, axis=1)[1:] for way in (moved - persons, persons))
    assert (missed < 0.2 * wanted).all()


def test_finger_tips_follow_a_motion_of_one_tick_within_it():
    robot0, human0 = LOWER + 0.5 * (UPPER - LOWER), LOWER + 0.5 * (UPPER - LOWER)
    human = human0 + 0.08
    wanted = finger_tips(human) - finger_tips(human0)
    moved = finger_tips(lead_tips(robot0, robot0, human0, human)) - finger_tips(robot0)
    assert (np.linalg.norm(moved - wanted, axis=1) < 0.4 * np.linalg.norm(wanted, axis=1)).all()


@pytest.mark.parametrize("blend", [0.25, 0.75])
def test_a_blended_hand_is_so_much_the_policys(blend: float):
    human, policy = HumanCommand(random_pose(np.random.default_rng(3)), np.full(HAND, 0.5)), SPEC.home + np.float32(0.1)
    state = start(SPEC.home)
    state, decision = advance(state, Inputs(True, human, policy, blend=blend), SPEC)
    for _ in range(3):
        state, decision = advance(state, Inputs(True, human, policy, blend=blend), SPEC)
    np.testing.assert_allclose(decision.command[ARM_DOF:], SPEC.home[ARM_DOF:] + blend * 0.1, atol=2e-3)


def test_a_blended_hand_stays_within_the_limits_however_far_the_person_goes():
    cube = IDENTITY.copy()
    state, _ = advance(start(SPEC.home), Inputs(True, HumanCommand(cube, LOWER), SPEC.home, blend=0.01), SPEC)
    for fraction in np.linspace(0, 1.5, 80):
        human = HumanCommand(cube, LOWER + 1.2 * fraction * (UPPER - LOWER))
        state, decision = advance(state, Inputs(True, human, SPEC.home, blend=0.01), SPEC)
        assert (decision.command <= SPEC.upper + 1e-6).all()
        assert (decision.command >= SPEC.lower - 1e-6).all()
