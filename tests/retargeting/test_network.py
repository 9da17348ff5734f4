"""The retargeting network and its losses: limits, locality, NumPy parity, values known by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.retargeting import losses, network
from dexhil.retargeting.hand import Hand, simulated_dexhand021
from tests.tolerances import TINY_STEP, assert_close


@pytest.fixture(scope="module")
def hand() -> Hand:
    return simulated_dexhand021()


@pytest.fixture(scope="module")
def params(hand: Hand) -> network.Params:
    params = network.init(np.random.default_rng(0), hand, width=16)
    for layers in (params["thumb"], *params["meet"]):
        layers[-1] = jax.tree.map(lambda x: x + np.float32(0.1), layers[-1])
    return params


def random_tips(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.1, (*shape, 5, 3)).astype(np.float32)


def test_motors_are_grouped_by_the_fingers_that_they_move(hand: Hand) -> None:
    groups = {group.fingers: [hand.motor_names[motor] for motor in group.motors] for group in network.groups_of(hand)}
    assert groups == {
        (0,): ["thumb_rotation", "thumb_mcp", "thumb_dip"],
        (1, 3, 4): ["spread"],
        **{(i,): [f"{name}_mcp", f"{name}_pip"] for i, name in enumerate(hand.fingers) if i},
    }


def test_angles_are_within_the_limits_and_reach_them(hand: Hand, params: network.Params) -> None:
    loud = jax.tree.map(lambda x: 5.0 * x, params)
    motors = np.asarray(network.forward(loud, hand, random_tips(0, 500)))
    assert (motors >= hand.lower).all()
    assert (motors <= hand.upper).all()
    assert (motors == hand.lower.astype(np.float32)).any(axis=0).all()
    assert (motors == hand.upper.astype(np.float32)).any(axis=0).all()


def test_a_finger_far_from_the_thumb_moves_its_own_motors_and_the_thumbs_only(
    hand: Hand, params: network.Params
) -> None:
    tips = random_tips(1)
    tips[0] += 1.0
    before = network.forward(params, hand, tips)
    tips[1] += 0.02
    moved = np.asarray(network.forward(params, hand, tips) != before)
    assert [name for name, m in zip(hand.motor_names, moved, strict=True) if m] == [
        *("thumb_rotation", "thumb_mcp", "thumb_dip", "spread", "index_mcp", "index_pip")
    ]


def test_numpy_computes_what_jax_does(hand: Hand, params: network.Params) -> None:
    tips = random_tips(2, 7)
    tips[..., 1, :] = tips[..., 0, :] + 0.02
    plain = network.forward(params, hand, tips)
    assert_close(plain, network.forward(params, hand, jnp.asarray(tips), jnp), TINY_STEP)


def test_a_finger_meets_the_thumb_with_a_part_of_its_own(hand: Hand, params: network.Params) -> None:
    tips = random_tips(1)
    tips[1] = tips[0] + [0.01, 0.0, 0.0]
    apart = {**params, "meet": []}
    moved = network.forward(params, hand, tips) != network.forward(apart, hand, tips)
    assert {"index_mcp", "index_pip"} <= {name for name, m in zip(hand.motor_names, moved, strict=True) if m}


def test_closeness_falls_smoothly_from_one_to_zero() -> None:
    gaps = jnp.linspace(0.0, 0.08, 161)
    slope = jax.grad(lambda gap: network.closeness(gap, jnp))
    values, slopes = network.closeness(gaps, jnp), jax.vmap(slope)(gaps)
    np.testing.assert_array_equal(values[gaps <= network.TOGETHER_M], 1.0)
    np.testing.assert_array_equal(values[gaps >= network.APART_M + 1e-6], 0.0)
    assert (slopes <= 0).all()
    assert abs(np.diff(slopes)).max() < 6.0  # per 0.5 mm: no kink


def test_losses_by_hand() -> None:
    here = jnp.zeros((2, 1, 3))
    step = here.at[..., 0].set(0.01)
    assert losses.vector_loss(step, here, jnp.full((2, 1), 3.0)) == pytest.approx(0.5 * 3.0 * 1e-4)
    assert losses.direction_loss(step, 2.0 * step) == pytest.approx(0.0, abs=1e-4)
    assert losses.direction_loss(step, -step) == pytest.approx(2.0, abs=1e-4)
    assert losses.flatness_loss(here, step, 2.0 * step) == pytest.approx(0.0, abs=1e-12)
    assert losses.flatness_loss(step, here, step) == pytest.approx(4e-4)
    assert losses.coverage_loss(here[:, 0], here[:1, 0] + 0.1) == pytest.approx(2 * 0.03)


def test_pads_are_drawn_together_only_where_the_person_pinches() -> None:
    pads, one = jnp.array([[[0.0, 0, 0], [0.05, 0, 0]]]), jnp.ones((1, 1))
    touching = losses.PAD_GAP_M * one
    assert losses.pinch_loss(pads, touching, one) == pytest.approx((0.05 - losses.PAD_GAP_M) ** 2, rel=1e-4)
    assert losses.pinch_loss(pads, touching, 0.0 * one) == 0.0
    assert losses.pinch_loss(pads, 0.05 * one, one) == pytest.approx(0.0, abs=1e-9)
    assert losses.pinch_loss(pads * 0.2, losses.SQUEEZED_M * one, one) == pytest.approx(0.0, abs=1e-9)
    assert np.isfinite(jax.grad(losses.pinch_loss)(pads * 0.0, touching, one)).all()


def test_a_tip_that_stands_still_at_a_limit_has_a_gradient() -> None:
    still, step = jnp.zeros((2, 1, 3)), jnp.ones((2, 1, 3))
    assert np.isfinite(jax.grad(losses.direction_loss)(still, step)).all()
    assert np.isfinite(jax.grad(losses.speed_loss)(still, 0.01)).all()
    assert losses.speed_loss(0.01 * step, 0.01 * 3**0.5) == pytest.approx(0.0, abs=1e-9)
    assert losses.speed_loss(0.02 * step, 0.01 * 3**0.5) == pytest.approx(3e-4, rel=1e-3)
