"""What the trainer sees beside the recordings, and the benchmark's trade-offs."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from dexhil.retargeting import training
from experiments.benchmarks import retargeting


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


def test_trade_offs_change_weights_that_there_are() -> None:
    usual = training.TrainingConfig()
    assert set(retargeting.TRADE_OFFS) == set(retargeting.GOALS)
    for weights in (w for choices in retargeting.TRADE_OFFS.values() for w in choices):
        assert dataclasses.replace(usual, **weights) != usual
