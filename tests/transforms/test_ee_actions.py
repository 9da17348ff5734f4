import numpy as np
import pytest

from dexhil.robots.geometry import ee_pose
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.transforms.ee_actions import EE_DIM, EE_SPACES, HOME_ROTATION, ee_state, from_ee_actions, to_ee_actions
from dexhil.transforms.normalization import Normalization, NormStats, fit_normalization


@pytest.fixture(scope="module")
def motion() -> tuple[np.ndarray, np.ndarray]:
    """States [5, 19] near home and smooth joint chunks [5, 8, 19] that start there."""
    rng = np.random.default_rng(0)
    states = SPEC.home + rng.uniform(-0.2, 0.2, (5, 19))
    states[:, 7:] = rng.uniform(0.2, 1.0, (5, 12))
    steps = np.cumsum(rng.uniform(-0.02, 0.02, (5, 8, 19)), axis=1)
    return states.astype(np.float32), (states[:, None] + steps).astype(np.float32)


@pytest.mark.parametrize("space", EE_SPACES)
def test_the_way_back_reaches_the_commanded_poses_and_keeps_the_hand(motion, space):
    states, chunks = motion
    back = from_ee_actions(to_ee_actions(chunks, states, space), states, space)
    for found, wanted, tolerance in zip(ee_pose(back[..., :7]), ee_pose(chunks[..., :7]), (5e-4, 5e-3), strict=True):
        np.testing.assert_allclose(found, wanted, atol=tolerance)
    np.testing.assert_array_equal(back[..., 7:], chunks[..., 7:])


def test_commanding_the_present_pose_is_a_zero_delta(motion):
    states, _ = motion
    chunk = np.repeat(states[:, None], 3, axis=1)
    np.testing.assert_allclose(to_ee_actions(chunk, states, "ee_delta")[..., :EE_DIM], 0.0, atol=1e-6)


def test_a_pose_is_that_of_the_base_frame_whatever_the_present_one(motion):
    states, chunks = motion
    poses = to_ee_actions(chunks, states, "ee_pose")
    np.testing.assert_array_equal(to_ee_actions(chunks, states[::-1], "ee_pose"), poses)
    positions, rotations = ee_pose(chunks[..., :7])
    np.testing.assert_allclose(poses[..., :3], positions, atol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(poses[..., 3:EE_DIM], axis=-1),
        np.arccos((np.einsum("...ij,ij", rotations, HOME_ROTATION) - 1) / 2),
        atol=1e-4,
    )


def test_a_zero_delta_keeps_the_pose(motion):
    states, chunks = motion
    deltas = np.concatenate([np.zeros((5, 8, EE_DIM), np.float32), chunks[..., 7:]], axis=-1)
    positions, _ = ee_pose(from_ee_actions(deltas, states, "ee_delta")[..., :7])
    np.testing.assert_allclose(positions, np.broadcast_to(ee_pose(states[:, :7])[0][:, None], (5, 8, 3)), atol=5e-4)


def test_the_delta_does_not_depend_on_the_elbow(motion):
    """Two postures of the same EE pose that command the same EE pose have the same delta."""
    states, _ = motion
    moved = states.copy()
    moved[:, :3] += 0.05
    target = from_ee_actions(np.zeros((5, 1, 18), np.float32), moved, "ee_delta")[:, 0]
    again = from_ee_actions(np.zeros((5, 1, 18), np.float32), target, "ee_delta")[:, 0]
    assert np.abs(again[:, :7] - moved[:, :7]).max() > 1e-3
    np.testing.assert_allclose(to_ee_actions(again[:, None], moved, "ee_delta")[..., :EE_DIM], 0.0, atol=2e-3)


def test_the_state_shows_position_two_rotation_columns_and_the_hand(motion):
    states, _ = motion
    shown = ee_state(states)
    position, rotation = ee_pose(states[:, :7])
    np.testing.assert_allclose(shown[:, :3], position, atol=1e-6)
    np.testing.assert_allclose(np.cross(shown[:, 3:6], shown[:, 6:9]), rotation[..., 2], atol=1e-6)
    np.testing.assert_array_equal(shown[:, 9:], states[:, 7:])


@pytest.mark.parametrize("space", EE_SPACES)
def test_normalization_round_trips_through_json_and_back_to_joints(motion, space):
    states, chunks = motion
    made = fit_normalization(states, chunks, np.ones((5, 8), bool), action_space=space)
    again = Normalization.from_json(made.to_json())
    assert again.hash() == made.hash()
    assert again.recorded_dims == {"state": 19, "actions": 19}
    assert again.normalize_state(states).shape == (5, 21)
    back = again.unnormalize_actions(again.normalize_actions(chunks, states), states)
    np.testing.assert_allclose(ee_pose(back[..., :7])[0], ee_pose(chunks[..., :7])[0], atol=1e-3)


def test_an_unknown_action_space_is_refused():
    stats = NormStats(np.zeros(3, np.float32), np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"action_space 'ee': expected one of \['recorded', 'ee_delta', 'ee_pose'\]"):
        Normalization(stats, stats, (), "ee")


@pytest.mark.parametrize("space", EE_SPACES)
def test_delta_dims_beside_end_effector_motion_are_refused(space):
    stats = NormStats(np.zeros(3, np.float32), np.ones(3, np.float32))
    with pytest.raises(ValueError, match=rf"delta_dims \(0,\): they name recorded joints, which '{space}' has none of"):
        Normalization(stats, stats, (0,), space)
