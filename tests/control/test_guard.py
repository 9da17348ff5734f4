"""The guard's geometry against independent formulas, and places that must be told from safe ones."""

import dataclasses

import numpy as np
import pytest

from dexhil.control import guard
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
    ("cause", "joint", "angle"), [("table", 1, 0.9), ("workspace", 0, 1.6), ("self_collision", 3, -3.04)]
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


def test_the_palm_and_the_tips_are_kept_above_the_table():
    ready = np.array([0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4])  # the flange looks down
    flange = guard.fr3_joint_frames(ready)[-1, :3, 3]
    wide = guard.Box(np.full(3, -9.0), np.full(3, 9.0), tips_m=-1.0)  # tips may be anywhere
    into_table = guard.depths(ready, np.zeros(12), wide)[1]
    assert into_table == pytest.approx(0.12 + 0.055 - flange[2], abs=1e-3)
    strict, loose = (dataclasses.replace(wide, tips_m=room) for room in (0.0, -0.02))
    both = [guard.depths(ready, np.zeros(12), box)[1] for box in (strict, loose)]
    assert both[0] - both[1] == pytest.approx(0.02)


def test_links_collide_where_points_along_them_do():
    """Every pair of links against a count over points of both: the pairs are those that can meet."""
    ends = {"base": (0, 1), "upper arm": (1, 4), "forearm": (4, 5), "wrist": (6, 7), "flange": (7, 8), "palm": (8, 9)}
    radii = {"base": 0.09, "upper arm": 0.09, "forearm": 0.065, "wrist": 0.065, "flange": 0.060, "palm": 0.055}
    pairs = [("forearm", "base"), ("wrist", "base"), ("flange", "base"), ("palm", "base")]
    pairs += [("wrist", "upper arm"), ("flange", "upper arm"), ("palm", "upper arm"), ("palm", "forearm")]
    q = np.random.default_rng(0).uniform(SPEC.lower[:7], SPEC.upper[:7], (2000, 7))
    points = guard._points(guard.fr3_joint_frames(q))
    along = np.linspace(0.0, 1.0, 15)[:, None, None]
    overlaps = []
    for first, second in pairs:
        a, b = (points[ends[n][0]] + along * (points[ends[n][1]] - points[ends[n][0]]) for n in (first, second))
        distance = np.linalg.norm(a[:, None] - b[None], axis=-1).min(axis=(0, 1))
        overlaps.append(radii[first] + radii[second] - distance)
    box = guard.Box(np.full(3, -9.0), np.full(3, 9.0), table_z=-9.0)
    found = guard.depths(q, np.zeros(12), box)[:, 2]
    assert np.abs(found - np.max(overlaps, axis=0)).max() < 0.02
    assert {0, 1, 2, 3, 6, 7} <= set(np.argmax(overlaps, axis=0))  # the pairs that come nearest somewhere
