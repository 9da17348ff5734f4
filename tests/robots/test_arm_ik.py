import numpy as np
import pytest

from dexhil.robots import arm_ik
from dexhil.sim.operator import hand_quaternion
from dexhil.sim.robot_model import SPEC

HOME = SPEC.home[:7].astype(np.float64)


def reach(pose: np.ndarray, solves: int = 10):
    solution = arm_ik.solve(pose, HOME)
    for _ in range(solves):
        solution = arm_ik.solve(pose, solution.q_arm)
    return solution


@pytest.mark.parametrize("yaw", [-1.1, 0.0, 1.1])
@pytest.mark.parametrize("y", [-0.2, 0.0, 0.2])
@pytest.mark.parametrize("x", [0.42, 0.65])
def test_reaches_the_workspace_within_a_millimetre(x, y, yaw):
    pose = np.array([x, y, 0.05, *hand_quaternion(0.85, yaw)])
    solution = reach(pose)
    assert solution.position_error < 1e-3
    assert solution.rotation_error < 5e-3
    np.testing.assert_allclose(arm_ik.forward(solution.q_arm)[:3], pose[:3], atol=1e-3)


def test_solving_for_the_present_pose_moves_nothing():
    np.testing.assert_allclose(arm_ik.solve(arm_ik.forward(HOME), HOME).q_arm, HOME, atol=1e-6)


def test_a_quaternion_and_its_negative_are_the_same_target():
    pose = np.array([0.5, 0.1, 0.1, *hand_quaternion(0.8, 0.4)])
    mirrored = np.concatenate([pose[:3], -pose[3:]])
    np.testing.assert_allclose(arm_ik.solve(pose, HOME).q_arm, arm_ik.solve(mirrored, HOME).q_arm, atol=1e-9)


def test_out_of_reach_stays_within_limits_and_says_how_far_it_is():
    solution = reach(np.array([1.5, 0.0, 0.3, *hand_quaternion(0.8, 0.0)]))
    assert solution.position_error > 0.3
    assert (solution.q_arm >= SPEC.lower[:7] - 1e-6).all()
    assert (solution.q_arm <= SPEC.upper[:7] + 1e-6).all()


def test_free_motion_drifts_home():
    pose = arm_ik.forward(HOME)
    elbow_out = reach(pose, 0).q_arm + np.array([0.3, 0, -0.3, 0, 0, 0, 0])
    start = arm_ik.solve(pose, elbow_out)
    end = start
    for _ in range(100):
        end = arm_ik.solve(pose, end.q_arm)
    assert end.position_error < 1e-3
    assert np.linalg.norm(end.q_arm - HOME) < 0.5 * np.linalg.norm(start.q_arm - HOME)


def test_a_smooth_path_gives_smooth_joints():
    q_arm, largest = HOME, 0.0
    start = arm_ik.forward(HOME)
    for step in range(60):
        pose = start + np.array([0.1 * np.sin(step / 20), 0.15 * np.sin(step / 15), 0, 0, 0, 0, 0])
        solved = arm_ik.solve(pose, q_arm).q_arm
        largest, q_arm = max(largest, float(np.abs(solved - q_arm).max())), solved
    assert largest < 0.05
