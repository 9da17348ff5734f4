"""The takeover state machine and the anchored mapping (DexHiL eq. 3, 4, 6)."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from dexhil.control.takeover import (
    HumanCommand,
    Inputs,
    Mode,
    advance,
    arm_target,
    executed,
    jump,
    start,
)
from dexhil.robots import arm_ik
from dexhil.robots.poses import IDENTITY, compose, inverse, make_pose
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF

HAND = SPEC.action_dim - ARM_DOF


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def random_pose(rng: np.random.Generator, size: float = 0.5) -> np.ndarray:
    return make_pose(rng.uniform(-size, size, 3), Rotation.random(rng=rng))


def random_command(rng: np.random.Generator) -> np.ndarray:
    """Within the limits, the arm around home."""
    command = SPEC.home + rng.uniform(-0.3, 0.3, SPEC.action_dim)
    return np.clip(command, SPEC.lower, SPEC.upper).astype(np.float32)


def tick(state, human=None, policy=None, engage=None, **more):
    """One tick whose decision is carried out as it is."""
    asks = human is not None if engage is None else engage
    inputs = Inputs(asks, human, policy, policy_epoch=more.pop("epoch", state.epoch), **more)
    state, decision = advance(state, inputs, SPEC, more.pop("cube_to_ee", IDENTITY))
    return executed(state, decision.command), decision


def test_poses_form_a_group(rng):
    a, b, c = (random_pose(rng) for _ in range(3))
    np.testing.assert_allclose(compose(a, inverse(a))[:3], 0, atol=1e-12)
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    np.testing.assert_allclose(left[:3], right[:3], atol=1e-12)
    assert abs(abs(left[3:] @ right[3:]) - 1) < 1e-12


def test_at_the_anchor_the_arm_target_is_the_anchor_and_motion_is_independent_of_camera_and_grip(rng):
    anchor, cube, moved = random_pose(rng), random_pose(rng), random_pose(rng)
    np.testing.assert_allclose(arm_target(anchor, cube, cube, random_pose(rng))[:3], anchor[:3], atol=1e-12)
    # A hand that moves from `anchor` to `moved`, seen by any camera, holding the cube in any way, moves the EE so.
    for _ in range(5):
        camera, grip = random_pose(rng), random_pose(rng)
        before, after = (compose(camera, compose(pose, inverse(grip))) for pose in (anchor, moved))
        np.testing.assert_allclose(arm_target(anchor, before, after, grip)[:3], moved[:3], atol=1e-9)


def test_a_person_who_holds_still_moves_nothing(rng):
    for _ in range(10):
        command, cube_to_ee = random_command(rng), random_pose(rng, 0.1)
        human = HumanCommand(random_pose(rng), rng.uniform(SPEC.lower[ARM_DOF:], SPEC.upper[ARM_DOF:]))
        state = start(command)
        for _ in range(20):
            before = state.command
            state, decision = advance(state, Inputs(True, human, None), SPEC, cube_to_ee)
            state = executed(state, decision.command)
            assert decision.is_intervention
            assert jump(before, decision.command).max < 1e-6
        np.testing.assert_allclose(state.command, command, atol=1e-5)


def test_the_hand_becomes_the_persons_own_as_it_moves(rng):
    command = random_command(rng)
    hand = np.full(HAND, 0.2)
    cube = random_pose(rng)
    state, _ = tick(start(command), HumanCommand(cube, hand))
    for phase in np.linspace(0, 20 * np.pi, 600):
        hand = np.full(HAND, 0.2 + 0.15 * np.sin(phase))
        before = state.command
        state, decision = tick(state, HumanCommand(cube, hand))
        assert jump(before, decision.command).max < 0.05
        assert (decision.command >= SPEC.lower).all()
        assert (decision.command <= SPEC.upper).all()
    wanted = np.clip(hand, SPEC.lower[ARM_DOF:], SPEC.upper[ARM_DOF:])
    np.testing.assert_allclose(state.command[ARM_DOF:], wanted, atol=0.01)


def test_the_arm_follows_the_cube(rng):
    command = SPEC.home.copy()
    pose = arm_ik.forward(command[:ARM_DOF].astype(np.float64))
    state, _ = tick(start(command), HumanCommand(pose, np.zeros(HAND)))
    target = pose
    for share in np.linspace(0, 1, 20):
        target = pose + np.array([0.05, -0.04, 0.03, 0, 0, 0, 0]) * share
        state, decision = tick(state, HumanCommand(target, np.zeros(HAND)))
        assert decision.ik_error_m < 1e-3
    reached = arm_ik.forward(state.command[:ARM_DOF].astype(np.float64))
    np.testing.assert_allclose(reached[:3], target[:3], atol=1e-3)


def test_a_folded_elbow_unfolds_as_the_person_leads_the_arm_away(rng):
    folded = SPEC.home.copy()
    folded[:ARM_DOF] = [2.0, -0.58, -2.03, -2.66, 0.23, 3.76, -0.76]
    pose = arm_ik.forward(folded[:ARM_DOF].astype(np.float64))
    home = arm_ik.forward(SPEC.home[:ARM_DOF].astype(np.float64))
    turns = Slerp([0, 1], Rotation.from_quat([pose[3:], home[3:]], scalar_first=True))
    state, decision = tick(start(folded), HumanCommand(pose, np.zeros(HAND)))
    for share in np.minimum(np.linspace(0, 3, 120), 1.0):
        at = pose[:3] + share * (home[:3] - pose[:3])
        cube = np.concatenate([at, turns(share).as_quat(scalar_first=True)])
        state, decision = tick(state, HumanCommand(cube, np.zeros(HAND)))
    assert decision.ik_error_m < 1e-3
    assert np.abs(state.command[:ARM_DOF] - SPEC.home[:ARM_DOF]).max() < 0.3


def test_the_modes_of_a_takeover_in_order(rng):
    human, policy = HumanCommand(random_pose(rng), np.zeros(HAND)), random_command(rng)
    state, decision = tick(start(SPEC.home), policy=policy)
    assert (decision.mode, decision.is_intervention) == (Mode.AUTONOMOUS, False)
    np.testing.assert_array_equal(decision.command, policy)
    modes = []
    for seen in (human, human, human, None):
        stale = state.epoch
        state, decision = tick(state, human=seen, policy=policy, epoch=stale)
        modes.append(decision.mode)
    assert modes == [Mode.ENGAGING, Mode.HUMAN, Mode.HUMAN, Mode.RELEASING]
    assert state.epoch == stale + 1
    held, decision = tick(state, policy=policy + 0.1, epoch=stale)  # planned before the release: dropped
    assert decision.mode is Mode.RELEASING
    np.testing.assert_array_equal(decision.command, state.command)
    state, decision = tick(held, policy=policy, epoch=state.epoch)
    assert decision.mode is Mode.AUTONOMOUS


def test_a_person_whose_devices_fail_holds_the_robot_and_a_new_anchor_follows(rng):
    human = HumanCommand(random_pose(rng), np.zeros(HAND))
    state, _ = tick(start(SPEC.home), human=human)
    state, decision = tick(state, human=None, engage=True, policy=random_command(rng))
    assert (decision.mode, decision.is_intervention) == (Mode.HOLD, False)
    np.testing.assert_array_equal(decision.command, state.command)
    elsewhere = dataclasses.replace(human, pose_camera_cube=random_pose(rng))
    before = state.command
    state, decision = tick(state, human=elsewhere)
    assert decision.mode is Mode.ENGAGING
    assert jump(before, decision.command).max < 1e-6


@pytest.mark.parametrize("engage", [True, False])
def test_a_plan_from_before_a_takeover_is_stale_even_where_the_devices_failed_in_between(rng, engage):
    human, plan = HumanCommand(random_pose(rng), np.zeros(HAND)), random_command(rng)
    state, _ = tick(start(SPEC.home), policy=SPEC.home)
    planned_for = state.epoch
    state, _ = tick(state, human=human)
    state, _ = tick(state, human=None, engage=True, policy=plan, epoch=planned_for)
    before = state.command
    for _ in range(3):
        state, decision = tick(state, human=None, engage=engage, policy=plan, epoch=planned_for)
        assert decision.mode is Mode.HOLD
        np.testing.assert_array_equal(decision.command, before)
    _, decision = tick(state, policy=plan)  # planned anew
    assert decision.mode is Mode.AUTONOMOUS


def test_without_a_plan_the_robot_holds_and_goes_on_with_one(rng):
    state, decision = tick(start(SPEC.home))
    assert decision.mode is Mode.HOLD
    _, decision = tick(state, policy=random_command(rng))
    assert decision.mode is Mode.AUTONOMOUS


def test_the_emergency_stop_is_latched(rng):
    human, policy = HumanCommand(random_pose(rng), np.zeros(HAND)), random_command(rng)
    state, decision = tick(start(SPEC.home), policy=policy, estop=True)
    assert decision.mode is Mode.ESTOP
    for seen in (None, human):
        state, decision = tick(state, human=seen, policy=policy)
        assert decision.mode is Mode.ESTOP
        np.testing.assert_array_equal(decision.command, SPEC.home)
    state, decision = tick(state, policy=policy, clear_estop=True)
    assert decision.mode is Mode.RELEASING
    _, decision = tick(state, policy=policy, epoch=state.epoch)
    assert decision.mode is Mode.AUTONOMOUS
