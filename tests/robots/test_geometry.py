import numpy as np
import pytest

from dexhil.robots.geometry import DEXHAND_TREE, FINGERS, ee_pose, finger_tips, fr3_joint_frames
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC


def test_hand_joints_are_in_the_order_of_the_robot_spec():
    assert DEXHAND_TREE.joint_names == SPEC.full_hand_joint_names


def test_flange_at_the_vendors_ready_pose():
    flange = fr3_joint_frames(np.array([0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4]))[-1]
    np.testing.assert_allclose(flange[:3, 3], [0.3069, 0.0, 0.5903], atol=1e-3)
    np.testing.assert_allclose(flange[:3, 2], [0, 0, -1], atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_frames_are_rigid(seed):
    rng = np.random.default_rng(seed)
    rotations = [*fr3_joint_frames(rng.uniform(-1, 1, 7))[:, :3, :3], *DEXHAND_TREE.frames(rng.uniform(0, 1, 19))[1]]
    for rotation in rotations:
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(rotation) == pytest.approx(1.0, abs=1e-6)


def test_home_holds_the_hand_above_the_middle_of_the_table():
    np.testing.assert_allclose(ee_pose(SPEC.home[:7])[0], [0.42, 0.0, 0.28], atol=0.01)


def test_bending_brings_finger_tips_out_of_the_palm_and_closer():
    open_hand, bent = np.zeros(12), np.array([0, 0, 0, 0] + [0.6, 0.6] * 4)
    before, after = finger_tips(open_hand)[1:], finger_tips(bent)[1:]
    assert (after[:, 0] > before[:, 0] + 0.03).all()
    assert (after[:, 2] < before[:, 2]).all()


def test_an_opposed_thumb_meets_the_middle_finger():
    pinch = np.array([1.57, 0.75, 0.8, 0.0] + [0.9, 0.7] * 4)
    tips = dict(zip(FINGERS, finger_tips(pinch), strict=True))
    assert np.linalg.norm(tips["thumb"] - tips["middle"]) < 0.035
