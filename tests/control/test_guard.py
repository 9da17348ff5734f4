"""The guard's geometry against independent formulas, and places that must be told from safe ones."""

import numpy as np
import pytest

from dexhil.control.guard import CAUSES, depths, segment_distance
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF
from tests.hardware.fakes import BOX

HOME, HAND = SPEC.home[:ARM_DOF].astype(float), SPEC.home[ARM_DOF:]


def test_the_distance_of_segments_is_that_of_their_nearest_points():
    rng = np.random.default_rng(0)
    along = np.linspace(0, 1, 301)[:, None]
    for _ in range(100):
        a0, a1, b0, b1 = rng.normal(size=(4, 3))
        first, second = a0 + along * (a1 - a0), b0 + along * (b1 - b0)
        nearest = np.linalg.norm(first[:, None] - second[None], axis=-1).min()
        assert nearest - 0.02 < segment_distance(a0, a1, b0, b1) <= nearest + 1e-9


def test_parallel_and_pointlike_segments_have_a_distance_too():
    x, z = np.array([1.0, 0, 0]), np.array([0, 0, 1.0])
    assert segment_distance(0 * x, x, z, x + z) == pytest.approx(1.0)
    assert segment_distance(0 * x, 0 * x, z, z) == pytest.approx(1.0)


def test_home_is_allowed_everywhere():
    assert (depths(HOME, HAND, BOX) < 0).all()


@pytest.mark.parametrize(
    ("cause", "joint", "angle"),
    [("table", 1, 0.9), ("workspace", 0, 1.6), ("self_collision", 3, -3.04)],
)
def test_a_place_that_is_not_allowed_is_named(cause: str, joint: int, angle: float):
    q = HOME.copy()
    q[joint] = angle
    if cause == "self_collision":
        q[5] = 0.6  # the hand folded back to the forearm
    assert depths(q, HAND, BOX)[CAUSES.index(cause)] > 0


def test_many_poses_at_once_are_each_as_alone():
    rng = np.random.default_rng(1)
    q = rng.uniform(SPEC.lower[:ARM_DOF], SPEC.upper[:ARM_DOF], (5, ARM_DOF))
    np.testing.assert_allclose(depths(q, HAND, BOX), [depths(one, HAND, BOX) for one in q], atol=1e-12)
