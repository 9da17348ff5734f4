import dataclasses

import numpy as np
import pytest

from dexhil.robots import arm_ik
from dexhil.sim.operator import (
    FAR_M,
    Intent,
    ScriptedOperator,
    draw_style,
    execute,
    grasp_to_hand,
    hand_angles,
    hand_quaternion,
)
from dexhil.sim.rig import SimRig
from dexhil.sim.robot_model import SPEC
from dexhil.sim.strategies.base import Grasp, Moment, fold_yaw, ramp
from dexhil.sim.strategies.plush import PlushStrategy
from dexhil.sim.tasks import PlushState

TOY = PlushState(np.array([0.5, 0.05, 0.034]), 0.3, 0.0, False)


@pytest.fixture(scope="module")
def rig() -> SimRig:
    return SimRig(cameras=())


def moment(**changes: object) -> Moment:
    start = Moment(0.0, np.array([0.42, 0.0, 0.28]), 0.6, 0.0, Grasp(), 0.0, TOY)
    return dataclasses.replace(start, **changes)


@pytest.mark.parametrize("task", ["plush", "tissue"])
@pytest.mark.parametrize("seed", range(4))
def test_the_operator_succeeds_at_the_default_difficulty(rig, task, seed):
    rig.reset(task=task, seed=seed)
    operator = ScriptedOperator(rig, seed=seed)
    while rig.time < rig.horizon_s and not rig.success():
        rig.apply(operator.act())
    assert rig.success(), rig.failure()
    assert rig.failure() == ""
    assert rig.time < 8.0


def test_a_slow_approach_is_slow_only_far_from_the_grasp(rig):
    speeds = {True: [], False: []}
    rig.reset(task="plush", seed=1)
    operator = ScriptedOperator(rig, seed=1, approach_speed=0.05)
    while not rig.success() and rig.time < rig.horizon_s:
        away = np.linalg.norm(rig.pose_base_ee[:3] - rig.privileged().grasp_point)
        before = operator.intent.pose_base_ee[:3]
        rig.apply(operator.act())
        if rig.time > 0.5:
            speed = np.linalg.norm(operator.intent.pose_base_ee[:3] - before) * rig.control_hz
            speeds[bool(away > FAR_M) and operator.strategy.phase == "reach"].append(speed)
    assert rig.success()
    assert np.mean(speeds[True]) < 0.07
    assert max(speeds[False]) > 0.12


def test_commands_are_smooth_and_hardly_need_limiting(rig):
    rig.reset(task="plush", seed=1)
    operator, commands, limited = ScriptedOperator(rig, seed=1), [rig.command], 0
    for step in range(60):
        wish = operator.act()
        commands.append(rig.apply(wish))
        limited += step >= 20 and not np.allclose(commands[-1], wish, atol=1e-6)
    assert limited <= 3, "only the elbow's way to its place, in the first second, is faster than the limits"
    changes = np.diff(np.stack(commands), n=2, axis=0)[:, :7]
    assert np.abs(changes).max() < 0.06, "the arm's speed changes by less than 1.2 rad/s from one step to the next"


def test_execution_depends_on_the_intent_alone(rig):
    rig.reset(task="plush", seed=2)
    operator = ScriptedOperator(rig, seed=2)
    command = rig.command
    action = operator.act()
    np.testing.assert_array_equal(action, execute(operator.intent, command))


def test_executed_intent_brings_the_hand_there():
    command = SPEC.home
    intent = Intent(np.array([0.5, 0.1, 0.1, *hand_quaternion(0.8, 0.5)]), Grasp(1.0, 0.5, 0.5, 0.5))
    for _ in range(10):
        command = execute(intent, command)
    np.testing.assert_allclose(arm_ik.forward(command[:7])[:3], intent.pose_base_ee[:3], atol=1e-3)
    np.testing.assert_array_equal(command[7:], grasp_to_hand(intent.grasp))


def test_grasps_stay_within_limits_and_closing_bends():
    rng = np.random.default_rng(0)
    for vector in rng.uniform(0, 1, (20, 5)):
        hand = grasp_to_hand(Grasp(*vector))
        assert (hand >= SPEC.lower[7:]).all()
        assert (hand <= SPEC.upper[7:]).all()
        np.testing.assert_array_equal(Grasp(*vector).vector(), vector)
    opened, closed = grasp_to_hand(Grasp(1.0)), grasp_to_hand(Grasp(1.0, 1.0, 1.0, 1.0))
    bending = [i for i, name in enumerate(SPEC.joint_names[7:]) if name not in ("thumb_rotation", "spread")]
    assert (closed[bending] > opened[bending]).all()


@pytest.mark.parametrize(("tilt", "yaw"), [(0.1, -1.5), (0.6, 0.0), (1.0, 1.2), (1.5, 2.5)])
def test_hand_angles_are_the_way_back(tilt, yaw):
    np.testing.assert_allclose(hand_angles(hand_quaternion(tilt, yaw)), (tilt, yaw), atol=1e-9)


def test_styles_differ_by_seed_and_repeat():
    one, same, other = (draw_style(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.speed == same.speed
    assert one.speed != other.speed
    expert = draw_style(np.random.default_rng(1), skill=4.0)
    np.testing.assert_allclose(expert.perception_m, one.perception_m / 4.0)
    assert (expert.speed, expert.tremor_m) == (one.speed, one.tremor_m / 4.0)


def test_folding_forgets_the_sign_of_a_direction():
    for yaw in np.linspace(-6, 6, 25):
        assert -np.pi / 2 <= fold_yaw(yaw) < np.pi / 2
        assert np.sin(2 * fold_yaw(yaw)) == pytest.approx(np.sin(2 * yaw), abs=1e-9)


def test_ramp_is_flat_outside_and_monotonic_inside():
    values = [ramp(x, 1.0, 2.0) for x in np.linspace(0, 3, 31)]
    assert values[0] == 0.0
    assert values[-1] == 1.0
    assert (np.diff(values) >= 0).all()


def test_the_hand_stays_high_until_it_is_above_the_toy():
    far = PlushStrategy().step(moment())
    near = PlushStrategy().step(moment(position=np.array([0.5, 0.05, 0.28]), yaw=fold_yaw(0.3 + np.pi / 2)))
    assert far.position[2] > near.position[2] + 0.05
    np.testing.assert_allclose(far.position[:2], TOY.grasp_point[:2])


def test_an_empty_hand_and_a_slip_lead_back_to_reaching():
    strategy = PlushStrategy()
    yaw = float(np.clip(fold_yaw(TOY.yaw + np.pi / 2), -1.1, 1.1))
    at_toy = moment(position=np.array([0.5, 0.05, 0.055]), yaw=yaw)
    closed = dataclasses.replace(at_toy, grasp=Grasp(1.0, 1.0, 1.0, 1.0))
    strategy.step(at_toy)
    assert strategy.phase == "close"
    strategy.step(closed)
    assert strategy.phase == "reach"
    strategy.step(at_toy)
    strategy.step(dataclasses.replace(closed, resistance=0.6))
    assert strategy.phase == "lift"
    strategy.step(dataclasses.replace(closed, position=np.array([0.5, 0.05, 0.2])))
    assert strategy.phase == "reach"
