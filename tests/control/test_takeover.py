"""The takeover state machine and the anchored mapping (DexHiL eq. 3, 4, 6)."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from dexhil.control.takeover import HumanCommand, Inputs, Mode, advance, arm_target, executed, jump, start
from dexhil.robots import arm_ik
from dexhil.robots.geometry import finger_tips
from dexhil.robots.poses import IDENTITY, compose, inverse, make_pose, rotation
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
        assert jump(before, decision.command).max < 0.07
        assert (decision.command >= SPEC.lower).all()
        assert (decision.command <= SPEC.upper).all()
    for q in np.linspace(0.2, 0.9, 60):
        hand = np.full(HAND, q)
        state, decision = tick(state, HumanCommand(cube, hand))
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
    assert state.anchors is None
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
        assert state.epoch == planned_for + 1  # so that what is planned from now on counts, whenever the person lets go
    _, decision = tick(state, policy=plan)  # planned anew
    assert decision.mode is Mode.AUTONOMOUS


def test_a_person_who_does_not_ask_for_control_is_not_followed(rng):
    policy, shown = random_command(rng), HumanCommand(random_pose(rng), np.ones(HAND))
    _, decision = tick(start(SPEC.home), shown, policy, engage=False)
    assert (decision.mode, decision.is_intervention) == (Mode.AUTONOMOUS, False)
    np.testing.assert_array_equal(decision.command, policy)


def test_who_asks_for_control_with_devices_that_show_nothing_does_not_stop_the_policy(rng):
    state, _ = tick(start(SPEC.home), policy=SPEC.home)
    _, decision = tick(state, engage=True, policy=random_command(rng))
    assert (decision.mode, decision.is_intervention) == (Mode.AUTONOMOUS, False)
    state, _ = tick(state, HumanCommand(random_pose(rng), np.zeros(HAND)))
    released, _ = tick(state, engage=False)
    _, decision = tick(released, engage=True, policy=random_command(rng))
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


NOISE = {"cube_m": 1e-3, "cube_rad": np.radians(0.5), "hand_rad": 0.01}  # of a hand at rest, standard deviations


def noisy(human: HumanCommand, rng: np.random.Generator) -> HumanCommand:
    """What sensors show of it."""
    turn = Rotation.from_rotvec(rng.normal(0, NOISE["cube_rad"], 3))
    cube = human.pose_camera_cube
    pose = make_pose(cube[:3] + rng.normal(0, NOISE["cube_m"], 3), turn * rotation(cube))
    return HumanCommand(
        pose * [1, 1, 1, *[rng.choice([-1, 1])] * 4], human.q_hand + rng.normal(0, NOISE["hand_rad"], HAND)
    )


@pytest.mark.parametrize("hz", [20, 30, 90])
@pytest.mark.parametrize("repeats", [1, 3])  # a slow device shows the same to a fast loop
def test_a_person_who_holds_still_within_sensor_noise_moves_nothing(rng, hz, repeats):
    for _ in range(1):
        human = HumanCommand(random_pose(rng), rng.uniform(SPEC.lower[ARM_DOF:], SPEC.upper[ARM_DOF:]))
        command, grip = random_command(rng), random_pose(rng, 0.05)
        state, shown = start(command), human
        for k in range(5 * hz):
            shown = noisy(human, rng) if k % repeats == 0 else shown
            state, decision = advance(state, Inputs(True, shown, None), SPEC, grip)
            state = executed(state, decision.command)
            assert jump(command, decision.command).max < 0.005
        assert state.anchors is not None
        assert state.anchors.path < 0.005


@pytest.mark.parametrize("hz", [20, 90])
def test_a_person_who_stops_moving_stops_the_robot(rng, hz):
    human = HumanCommand(random_pose(rng), np.full(HAND, 0.2))
    state, after = start(random_command(rng)), []
    for k in range(6 * hz):
        human = dataclasses.replace(human, q_hand=np.full(HAND, 0.2 + min(k / hz, 1.0) * 0.8))
        state, decision = tick(state, noisy(human, rng))
        after += [decision.command] if k > 2 * hz else []
    assert np.ptp(after, axis=0).max() < 0.02


def test_slow_motion_counts_however_small_its_steps(rng):
    human = HumanCommand(random_pose(rng), np.full(HAND, 0.2))
    state, _ = tick(start(SPEC.home), human)
    for q in np.linspace(0.2, 0.6, 1800):
        state, _ = tick(state, noisy(dataclasses.replace(human, q_hand=np.full(HAND, q)), rng))
    wanted = np.minimum(SPEC.home[ARM_DOF:] + 0.04, SPEC.upper[ARM_DOF:] - 1e-6)
    assert (state.command[ARM_DOF:] > wanted).all()


def test_fingers_move_by_themselves_alone(rng):
    """The thumb turns and comes back: the fingers, which hold something, stay; the person's are open."""
    robot, hand = SPEC.home.copy(), np.full(HAND, 0.2)
    robot[ARM_DOF:] = np.minimum(0.9, SPEC.upper[ARM_DOF:])
    cube = random_pose(rng)
    state, _ = tick(start(robot), HumanCommand(cube, hand))
    for phase in np.linspace(0, np.pi, 60):
        state, _ = tick(state, HumanCommand(cube, hand + np.eye(HAND)[0] * 0.6 * np.sin(phase)))
    np.testing.assert_allclose(state.command[ARM_DOF + 1 :], robot[ARM_DOF + 1 :], atol=1e-6)
    assert abs(state.command[ARM_DOF] - 0.9) > 0.1


@pytest.mark.parametrize("closing", [True, False])
@pytest.mark.parametrize("hz", [20, 90])
def test_no_finger_ever_goes_against_the_persons(rng, closing, hz):
    for _ in range(5):
        ends = np.sort(rng.uniform(0.0, 1.2, (2, HAND)), axis=0)
        robot = random_command(rng)
        robot[ARM_DOF:] = rng.uniform(SPEC.lower[ARM_DOF:], SPEC.upper[ARM_DOF:])
        begins, stops = ends if closing else ends[::-1]
        cube, state = random_pose(rng), start(robot)
        for share in np.linspace(0, 1, hz):
            before = state.command[ARM_DOF:]
            state, decision = tick(state, HumanCommand(cube, begins + share * (stops - begins)))
            step = decision.command[ARM_DOF:] - before
            assert ((step if closing else -step) > -1e-6).all()


def test_the_anchor_is_the_last_command_whatever_was_measured(rng):
    command = random_command(rng)
    state = executed(start(SPEC.home), command)
    state, decision = tick(state, HumanCommand(random_pose(rng), np.zeros(HAND)))
    np.testing.assert_allclose(decision.command, command, atol=1e-5)
    assert state.anchors is not None
    np.testing.assert_array_equal(state.anchors.command, command)


@pytest.mark.parametrize(("authority", "persons"), [("arm", slice(0, ARM_DOF)), ("hand", slice(ARM_DOF, None))])
def test_the_policy_keeps_what_the_person_does_not_take(rng, authority, persons):
    policy, human = random_command(rng), HumanCommand(random_pose(rng), np.full(HAND, 0.3))
    state, decision = tick(start(SPEC.home), human, policy, authority=authority)
    np.testing.assert_allclose(decision.command, SPEC.home, atol=1e-5)  # of its first tick everything holds
    moved = HumanCommand(
        compose(human.pose_camera_cube, make_pose(np.full(3, 0.02), Rotation.identity())), np.ones(HAND)
    )
    for _ in range(20):
        state, decision = tick(state, moved, policy, authority=authority)
    assert decision.is_intervention
    ours = np.zeros(SPEC.action_dim, bool)
    ours[persons] = True
    np.testing.assert_array_equal(decision.command[~ours], policy[~ours])
    assert (np.abs(decision.command - policy)[ours] > 1e-3).any()
    assert (np.abs(decision.command - SPEC.home)[ours] > 1e-3).any()


@pytest.mark.parametrize(("first", "then"), [("arm", "both"), ("both", "hand"), ("hand", "arm"), ("both", "arm")])
def test_a_change_of_authority_moves_nothing_until_the_policy_has_planned_anew(rng, first, then):
    human, old = HumanCommand(random_pose(rng), rng.uniform(0, 1, HAND)), random_command(rng)
    state = start(SPEC.home)
    for _ in range(5):
        state, _ = tick(state, human, old, authority=first)
    stale, before = state.epoch, state.command
    for _ in range(5):
        state, decision = tick(state, human, old + 0.1, epoch=stale, authority=then)
        assert jump(before, decision.command).max < 1e-4
        assert decision.is_intervention
    assert state.epoch == stale + 1
    state, decision = tick(state, human, old, authority=then)
    assert jump(before, decision.command).max > 1e-3 or then == "both"


def test_a_blended_takeover_adds_the_persons_motion_to_the_policys(rng):
    human, policy = HumanCommand(random_pose(rng), np.full(HAND, 0.5)), SPEC.home + np.float32(0.05)
    state, decision = tick(start(SPEC.home), human, policy, blend=0.5)
    np.testing.assert_allclose(decision.command, SPEC.home, atol=1e-5)
    for _ in range(3):
        state, decision = tick(state, human, policy, blend=0.5)
    still = decision.command
    pose, expected = (arm_ik.forward(q[:ARM_DOF].astype(np.float64)) for q in (still, policy))
    np.testing.assert_allclose(pose, expected, atol=1e-3)
    np.testing.assert_allclose(still[ARM_DOF:], SPEC.home[ARM_DOF:] + 0.025, atol=1e-3)
    moved = HumanCommand(
        compose(human.pose_camera_cube, make_pose(np.full(3, 0.03), Rotation.identity())), np.full(HAND, 0.9)
    )
    for _ in range(40):
        state, decision = tick(state, moved, policy, blend=0.5)
    here, there = (arm_ik.forward(q[:ARM_DOF].astype(np.float64)) for q in (policy, decision.command))
    assert np.linalg.norm(there[:3] - here[:3]) == pytest.approx(0.03 * np.sqrt(3), abs=2e-3)
    tips = (finger_tips(q.astype(np.float64)) for q in (still[ARM_DOF:], decision.command[ARM_DOF:]))
    assert np.linalg.norm(np.subtract(*tips), axis=1).min() > 0.005


@pytest.mark.parametrize("blend", [-0.1, 1.5])
def test_a_blend_that_is_no_fraction_is_named(blend):
    with pytest.raises(ValueError, match=r"blend .*: expected a fraction"):
        Inputs(False, None, None, blend=blend)


def test_an_unknown_authority_is_named():
    with pytest.raises(ValueError, match="authority 'legs': expected one of both, arm, hand"):
        Inputs(False, None, None, authority="legs")
