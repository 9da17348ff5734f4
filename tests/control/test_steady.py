"""What a takeover makes of noisy devices: rest stays exactly at rest, slow motion arrives, in any size of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dexhil.control import steady
from dexhil.control.takeover import Anchors, HumanCommand, Inputs, advance, start
from dexhil.robots.poses import IDENTITY, make_pose, rotation
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from tests.control.test_takeover import HAND, noisy, random_pose

ONE = steady.Noise([0], np.array([1.0]))


def led(shown: Iterable[HumanCommand]) -> Anchors:
    """The anchors after a takeover in which a person showed all of it."""
    state = start(SPEC.home)
    for human in shown:
        state, _ = advance(state, Inputs(True, human, None), SPEC)
    assert state.anchors is not None
    return state.anchors


def followed(samples: np.ndarray) -> np.ndarray:
    """[n], what is followed of one number with noise of size 1."""
    state, values = steady.begin(samples[:1], ONE), []
    for sample in samples:
        state = steady.follow(state, np.array([sample]), ONE)
        values.append(state.value[0])
    return np.array(values)


@pytest.mark.parametrize("seed", range(2))
def test_within_sensor_noise_what_a_person_shows_stays_exactly_what_it_was(seed: int):
    rng = np.random.default_rng(seed)
    human = HumanCommand(random_pose(rng), np.full(HAND, 0.5))
    anchors = led(noisy(human, rng) for _ in range(600))
    np.testing.assert_array_equal(anchors.human.pose_camera_cube[:3], anchors.pose_camera_cube[:3])
    np.testing.assert_array_equal(anchors.human.q_hand, anchors.human_hand)
    assert abs(anchors.human.pose_camera_cube[3:] @ anchors.pose_camera_cube[3:]) == pytest.approx(1.0, abs=1e-12)
    assert anchors.path == 0.0


def test_a_slow_cube_arrives_where_it_is_led_in_place_and_rotation():
    rng = np.random.default_rng(0)
    begun = HumanCommand(random_pose(rng), np.full(HAND, 0.5))
    shown = [begun]
    for fraction in np.linspace(0, 1, 500):
        turned = Rotation.from_rotvec([0.0, 0.0, fraction * np.radians(15)]) * rotation(begun.pose_camera_cube)
        pose = make_pose(begun.pose_camera_cube[:3] + fraction * np.array([0.03, 0.0, 0.0]), turned)
        shown.append(dataclasses.replace(begun, pose_camera_cube=pose))
    found, wanted = led(noisy(human, rng) for human in shown).human.pose_camera_cube, shown[-1].pose_camera_cube
    assert np.linalg.norm(found[:3] - wanted[:3]) < 0.003
    assert (rotation(found).inv() * rotation(wanted)).magnitude() < np.radians(1.2)
    assert np.linalg.norm(found[3:]) == pytest.approx(1.0, abs=1e-9)


def test_the_path_of_a_hand_adds_up_its_motion_both_ways_of_the_joint_that_moves_most():
    closing = np.linspace(0.2, 0.6, 40)[:, None] * np.linspace(0.5, 1.0, HAND)
    way = [*closing[:1], *closing, *closing[::-1]]
    anchors = led(HumanCommand(IDENTITY.copy(), q_hand) for q_hand in way)
    assert anchors.path == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize("speed", [0.05, 1.0, 10.0])
def test_what_is_followed_never_goes_beyond_nor_back(speed: float):
    values = followed(np.minimum(np.arange(0.0, 100.0, min(speed, 1.0)) * max(speed, 1.0), 100.0))
    assert (np.diff(values) >= 0.0).all()
    assert values[0] == 0.0
    assert 100.0 - steady.BAND < values[-1] <= 100.0
