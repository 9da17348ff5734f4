"""Synthetic hands: proportions, the canonical frame, gestures that are what they are called."""

from __future__ import annotations

import numpy as np
import pytest

from dexhil.retargeting import synthetic
from dexhil.retargeting.keypoints import OF_FINGER, TIPS, bending, check_keypoints, hand_size, to_canonical
from dexhil.robots.geometry import FINGERS


def test_a_hand_has_its_length_and_its_segments_whatever_the_angles() -> None:
    person = synthetic.Person()
    rng = np.random.default_rng(0)
    angles = rng.uniform(synthetic.LOWER, synthetic.UPPER, (50, 5, 4))
    points = synthetic.keypoints_of(angles, person)
    lengths = np.linalg.norm(np.diff(points[:, OF_FINGER["middle"]], axis=1), axis=-1)
    np.testing.assert_allclose(lengths, np.tile(person.length * person.phalanges[2], (50, 1)))
    straight = synthetic.keypoints_of(np.zeros((5, 4)), person)
    assert np.linalg.norm(straight[TIPS[2]]) == pytest.approx(0.99 * person.length)


def test_the_frame_is_the_canonical_one() -> None:
    points = synthetic.keypoints_of(synthetic.OPEN)
    np.testing.assert_allclose(to_canonical(points), points, atol=2e-3)
    check_keypoints(points[None])


@pytest.mark.parametrize("finger", FINGERS[1:])
@pytest.mark.parametrize("arched", [0.0, 1.0])
def test_a_pinch_touches_and_stays_within_the_joints(finger: str, arched: float) -> None:
    angles = synthetic.pinch(finger, arched=arched)
    tips = synthetic.keypoints_of(angles)[TIPS]
    gap = np.linalg.norm(tips[FINGERS.index(finger)] - tips[0])
    assert gap == pytest.approx(0.010, abs=1e-3)
    assert (angles >= synthetic.LOWER).all()
    assert (angles <= synthetic.UPPER).all()


def test_open_and_fist_bend_as_people_do() -> None:
    opened, fist = (np.degrees(bending(synthetic.keypoints_of(a), "index")) for a in (synthetic.OPEN, synthetic.FIST))
    assert opened < 30
    assert 200 < fist < 270


def test_free_motion_is_smooth_and_goes_through_pinches() -> None:
    rng = np.random.default_rng(1)
    person = synthetic.draw_person(rng)
    clip = synthetic.free_motion(rng, person, 20.0, 60.0)
    assert clip.shape == (1200, 21, 3)
    assert np.linalg.norm(np.diff(clip, axis=0), axis=-1).max() < 0.05
    gaps = np.linalg.norm(clip[:, TIPS[1:]] - clip[:, TIPS[:1]], axis=-1)
    assert (gaps.min(axis=1) < 0.015).mean() > 0.05
    assert hand_size(clip) == pytest.approx(0.958 * person.length, rel=0.06)


def test_the_same_seed_draws_the_same_person() -> None:
    first, second = (synthetic.draw_person(np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.phalanges, second.phalanges)
    assert first.length == second.length


def test_skeletons_as_gloves_report_them_have_longer_palms_and_shorter_fingers() -> None:
    for seed in range(20):
        usual, person = (synthetic.draw_person(np.random.default_rng(seed), stray) for stray in (0.0, 1.0))
        palm, fingers = person.metacarpal / usual.metacarpal, person.phalanges[1:] / usual.phalanges[1:]
        assert palm[0] == 1.0
        np.testing.assert_array_equal(person.phalanges[0], usual.phalanges[0])
        np.testing.assert_allclose(palm[1:], palm[1])
        np.testing.assert_allclose(fingers, fingers[:1].repeat(4, axis=0))
        assert 1.0 <= palm[1] <= 1.3
        assert 0.6 <= fingers[0, 0] <= 1.0
