"""What the trainer sees beside the recordings, and the benchmark's bound on the tip error."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from dexhil.retargeting import metrics, training
from dexhil.retargeting.hand import PAD_RADIUS_M, simulated_dexhand021
from dexhil.retargeting.kinematics import CanonicalHand
from experiments.benchmarks import reach, retargeting


def test_half_of_the_tips_leave_the_recordings_alone_or_together() -> None:
    (own, shared), shape = jax.random.split(jax.random.key(0)), (400, 5, 3)
    config = training.TrainingConfig(off_path_m=0.01, together_m=0.02)
    moved = np.asarray(training._off_path(config, own, shared, shape))
    assert (moved[::2] == 0.0).all()
    np.testing.assert_array_equal(moved[3::4], np.repeat(moved[3::4, :1], 5, axis=1))  # a pinch stays a pinch
    assert abs(moved[1::4, 0] - moved[1::4, 1]).min(axis=0).max() > 0
    assert moved[1::4].std() < 0.012 < moved[3::4].std()
    never = np.asarray(training._off_path(dataclasses.replace(config, together_m=0.0), own, shared, shape))
    np.testing.assert_array_equal(never[1::4], moved[1::4])
    assert (never[3::4, 0] != never[3::4, 1]).all()


def test_the_best_postures_reach_what_can_be_reached_and_pinch_where_asked() -> None:
    robot = CanonicalHand(simulated_dexhand021())
    tips = robot.tips(robot.random_motors(7, 6))
    apart, touching = np.zeros((6, 4), bool), np.zeros((6, 4), bool)
    touching[:, 1] = True
    _, alone = reach.nearest_postures(robot, tips, apart)
    motors, pinching = reach.nearest_postures(robot, tips, touching)
    assert 1e3 * alone.mean() < 1.0
    gaps = metrics.thumb_distances(robot.pads(motors))[:, 1] - 2 * PAD_RADIUS_M
    assert (gaps < metrics.CONTACT_M).all()
    assert pinching.mean() > alone.mean()
    assert (robot.hand.lower - 1e-6 <= motors).all()
    assert (motors <= robot.hand.upper + 1e-6).all()


def test_trade_offs_change_weights_that_there_are() -> None:
    usual = training.TrainingConfig()
    assert set(retargeting.TRADE_OFFS) == set(retargeting.GOALS)
    for weights in (w for choices in retargeting.TRADE_OFFS.values() for w in choices):
        assert dataclasses.replace(usual, **weights) != usual
