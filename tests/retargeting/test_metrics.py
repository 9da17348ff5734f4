"""Key points and the metrics: on recordings, and on methods whose faults are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dexhil.retargeting import metrics
from dexhil.retargeting.hand import simulated_dexhand021
from dexhil.retargeting.keypoints import TIPS, bending, check_keypoints, to_canonical
from dexhil.retargeting.kinematics import CanonicalHand


@pytest.fixture(scope="module")
def robot() -> CanonicalHand:
    return CanonicalHand(simulated_dexhand021())


@pytest.fixture(scope="module")
def clip(shared_data: Path) -> np.ndarray:
    return np.load(shared_data / "hands" / "geort_alex_right_21kp.npy").astype(np.float64)[:400]


def flat_hand() -> np.ndarray:
    """Key points [21, 3] of an open hand whose fingers are straight."""
    points = np.zeros((21, 3))
    for finger, y in enumerate((0.05, 0.02, 0.0, -0.02, -0.04)):
        points[4 * finger + 1 : 4 * finger + 5] = [[0.0, y, 0.09 + 0.03 * k] for k in range(4)]
    points[9:13, 1] = 0.0
    return points


def close_by_bending(clip: np.ndarray) -> np.ndarray:
    """A crude method for the simulated hand: the motors of a finger turn as far as the person's finger is bent."""
    share = np.clip(np.stack([bending(clip, name) for name in ("index", "middle", "ring", "little")], -1) / 4.0, 0, 1)
    thumb = np.stack([0.7 + 0 * share[:, 0], share[:, 0], share[:, 0], 0 * share[:, 0]], axis=-1)
    return np.concatenate([thumb, 1.3 * np.repeat(share, 2, axis=-1)], axis=-1)


@pytest.mark.parametrize("name", ["manus_000", "geort_alex", "mediapipe"])
def test_recordings_are_right_hands_in_metres(shared_data: Path, name: str) -> None:
    points = np.load(shared_data / "hands" / f"{name}_right_21kp.npy").astype(np.float64)
    check_keypoints(points)
    for wrong, message in (
        (points * 1000, "divide by 1000: they look like mm"),
        (points * [1, -1, 1], "looks like a left hand"),
        (points[:, :20], r"expected an array \[frames, 21, 3\]"),
        (np.full_like(points, np.nan), "none of the .* frames is finite"),
    ):
        with pytest.raises(ValueError, match=message):
            check_keypoints(wrong)


def test_the_canonical_frame_is_the_same_however_the_hand_is_held() -> None:
    rng = np.random.default_rng(0)
    points = flat_hand() + rng.normal(0.0, 0.002, (21, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    canonical = to_canonical(points)
    np.testing.assert_allclose(to_canonical(points @ turn.T + 0.3), canonical, atol=1e-12)
    np.testing.assert_allclose(canonical[0], 0)
    np.testing.assert_allclose(canonical[9, :2], 0, atol=1e-12)


def test_bending_is_the_sum_of_the_three_angles() -> None:
    points = flat_hand()
    assert bending(points, "middle") == pytest.approx(0.0, abs=1e-6)
    points[11:13] = points[10] + np.array([[0.03, 0, 0], [0.03, 0, -0.03]])
    assert bending(points, "middle") == pytest.approx(np.pi)


def test_the_robots_bending_is_the_sum_of_its_joints(robot: CanonicalHand) -> None:
    motors = robot.random_motors(0, 4)
    names = robot.hand.motor_names
    index_mcp, index_pip = names.index("index_mcp"), names.index("index_pip")
    np.testing.assert_allclose(robot.bending(motors, "index"), motors[:, index_mcp] + 2 * motors[:, index_pip])


def test_all_metrics_of_a_crude_method(robot: CanonicalHand, clip: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "REACH_SAMPLES", 2000)
    scores = metrics.score(close_by_bending, clip, robot, 1.6)
    assert set(scores) == {
        *("tip_error_mm", "pinch_contact", "max_step_mm", "sweep_jump_mm", "sweep_hysteresis_mm", "fist_completeness"),
        *("open_hand_error_deg", "coverage", "motion_preservation", "jerk_gain", "lag_frames"),
    }
    assert scores["sweep_hysteresis_mm"] == 0.0
    assert scores["lag_frames"] == 0.0
    assert 20 < scores["tip_error_mm"] < 150


def test_a_filtering_method_lags_and_has_hysteresis(robot: CanonicalHand, clip: np.ndarray) -> None:
    def filtered(points: np.ndarray) -> np.ndarray:
        return np.stack(list(_low_pass(close_by_bending(points), 0.2)))

    assert metrics.pinch_sweep(filtered, clip, robot, np.ones(len(clip), bool))[1] > 0.001
    tips, late = (robot.tips(method(clip)) for method in (close_by_bending, filtered))
    assert metrics.lag(tips, late) >= 1
    assert metrics.lag(tips[3:], tips[:-3]) == 3


def _low_pass(values: np.ndarray, share: float):
    state = values[0]
    for value in values:
        state = state + share * (value - state)
        yield state


def test_coverage_counts_what_was_visited(robot: CanonicalHand) -> None:
    reachable = robot.tips(robot.random_motors(0, 3000))
    assert metrics.coverage(reachable, reachable) == 1.0
    assert metrics.coverage(reachable[:1], reachable) < 0.2
    assert metrics.coverage(reachable + 1.0, reachable) == 0.0


def test_a_jump_in_a_small_motion_is_found(robot: CanonicalHand) -> None:
    clip = np.repeat(flat_hand()[None], 4, axis=0)
    tips = np.repeat(robot.tips(robot.random_motors(0, 1)), 4, axis=0)
    tips[2:] += 0.04
    every = np.ones(4, bool)
    assert metrics.largest_small_step(clip, tips, robot, every) == pytest.approx(0.04 * np.sqrt(3))
    assert metrics.largest_small_step(clip, tips, robot, np.array([True, True, False, False])) == 0.0
    clip[2:, TIPS[0]] += 0.01  # the person moved as well
    assert metrics.largest_small_step(clip, tips, robot, every) == 0.0
