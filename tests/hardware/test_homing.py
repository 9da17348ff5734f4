"""The way home on a clock of the test: slow, past what the guard forbids, and why it ends where it cannot go on."""

import dataclasses

import numpy as np
import pytest

from dexhil.control.guard import depths
from dexhil.robots import arm_ik
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF
from hardware.runtime.control import Phase
from hardware.runtime.homing import HOMING_SPEED, SPEED_M, WayHome
from tests.hardware.fakes import BOX, SETTINGS, TICK_S, Bench, arm_state


def test_homing_is_slow_and_ends_idle():
    bench = Bench()
    bench.arm.value = dataclasses.replace(bench.arm.value, q=SPEC.home[:ARM_DOF] + 0.2)
    bench.run(0.1)
    bench.control.request(Phase.HOMING)
    path = bench.run(2.0)
    speed = np.abs(np.diff([s.command[:ARM_DOF] for s in path], axis=0)).max() / (3 * TICK_S)
    assert speed < 0.16 * SPEC.max_velocity.max()
    assert bench.control.latest.phase is Phase.IDLE
    np.testing.assert_allclose(bench.control.latest.command, SPEC.home, atol=0.011)


@pytest.mark.parametrize(
    "q_arm",
    [  # at the edge of the box or low over the table: joint by joint, each as fast as it can, the way home leads out
        [0.70, -0.16, 0.09, -2.59, -0.45, 1.53, -0.14],
        [-0.74, -0.08, 1.27, -2.68, 0.52, 2.87, 0.60],
        [0.43, -0.49, -0.53, -1.82, 0.98, 4.34, -0.10],
        [-0.64, -0.80, -1.33, -3.01, 0.86, 2.42, -0.37],
    ],
)
def test_homing_finds_its_way_past_what_the_guard_forbids(q_arm: list[float]):
    bench = Bench()
    bench.arm.value = arm_state(np.array(q_arm))
    bench.run(0.1)
    bench.control.request(Phase.HOMING)
    bench.run(20.0)
    assert bench.control.latest.phase is Phase.IDLE
    np.testing.assert_allclose(bench.control.latest.command, SPEC.home, atol=0.011)
    found = depths(np.array(bench.arm.commands), SPEC.home[ARM_DOF:], BOX)
    assert found.max() <= max(1e-3, found[0].max())


EDGE = np.array([-0.74, -0.08, 1.27, -2.68, 0.52, 2.87, 0.60])


def way_home() -> WayHome:
    made = WayHome(SPEC, HOMING_SPEED * SPEC.max_velocity[:ARM_DOF].astype(np.float64), TICK_S)
    made.start(EDGE)
    return made


def off_the_straight_line(path: list[np.ndarray]) -> float:
    """The largest distance m of the hand on `path` from the line between where it began and its home."""
    begin, home = (arm_ik.forward(q.astype(np.float64))[:3] for q in (EDGE, SPEC.home[:ARM_DOF]))
    along = (home - begin) / np.linalg.norm(home - begin)
    passed = np.array([arm_ik.forward(q)[:3] for q in path]) - begin
    return np.linalg.norm(passed - (passed @ along)[:, None] * along, axis=1).max()


def test_each_turn_back_takes_the_next_way_and_stays_with_it():
    way = way_home()
    by_joints = [way.step() for _ in range(90)]
    assert off_the_straight_line(by_joints) > 0.02  # straight in joint space, not in the hand's
    for _ in range(2):  # the hand's way again after the others
        way.turn_back(EDGE)
        by_hand = [way.step() for _ in range(90)]
        assert off_the_straight_line(by_hand) < 0.005
        moved = arm_ik.forward(by_hand[-1])[:3] - arm_ik.forward(EDGE)[:3]
        assert 0.01 < np.linalg.norm(moved) < 1.2 * SPEED_M * 90 * TICK_S
        way.turn_back(EDGE)
        poses = np.array([arm_ik.forward(way.step()) for _ in range(90)]) - arm_ik.forward(EDGE)
        np.testing.assert_allclose(
            poses[:, [0, 1, 3, 4, 5, 6]], 0.0, atol=0.015
        )  # it rises as it is; EDGE is near limits
        assert 0.01 < poses[-1, 2] < 1.2 * SPEED_M * 90 * TICK_S
        way.turn_back(EDGE)
        np.testing.assert_allclose([way.step() for _ in range(90)], by_joints)


@pytest.mark.parametrize("turns", [1, 2])
def test_where_the_hands_way_ends_the_joints_go_the_rest(turns: int):
    way, at = way_home(), EDGE
    for _ in range(turns):
        way.turn_back(EDGE)
    for _ in range(90 * 60):
        at = way.step()
    np.testing.assert_allclose(at, SPEC.home[:ARM_DOF], atol=1e-6)


def test_homing_that_the_guard_forbids_says_why():
    x_home = arm_state(SPEC.home[:ARM_DOF]).pose_base_ee[0]
    box = dataclasses.replace(BOX, upper=np.array([x_home - 0.05, 0.5, 0.9]))
    bench = Bench(dataclasses.replace(SETTINGS, box=box))
    bench.arm.value = arm_state(
        arm_ik.solve(bench.arm.value.pose_base_ee - [0.1, 0, 0, 0, 0, 0, 0], bench.arm.value.q).q_arm
    )
    bench.run(0.1)
    bench.control.request(Phase.HOMING)
    bench.run(10.0)
    assert bench.control.latest.phase is Phase.HOMING
    assert "workspace: the arm would come to rest" in bench.control.latest.holding


def test_the_hand_goes_home_as_slowly_as_the_arm():
    bench = Bench()
    bench.hand.value = SPEC.home[ARM_DOF:] + np.float32(0.3)
    bench.run(0.1)
    bench.control.request(Phase.HOMING)
    speed = np.abs(np.diff([s.command[ARM_DOF:] for s in bench.run(0.5)], axis=0)).max() / TICK_S
    assert 0.01 < speed < 0.16 * SPEC.max_velocity[ARM_DOF:].max()
