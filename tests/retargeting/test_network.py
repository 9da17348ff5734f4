"""The retargeting network and its losses: limits, locality, NumPy parity, values known by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.retargeting import losses, network
from dexhil.retargeting.hand import Hand, simulated_dexhand021


@pytest.fixture(scope="module")
def hand() -> Hand:
    return simulated_dexhand021()


@pytest.fixture(scope="module")
def params(hand: Hand) -> network.Params:
    params = network.init(jax.random.key(0), hand, width=16)
    params["thumb"][-1] = jax.tree.map(lambda x: x + 0.1, params["thumb"][-1])
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


def test_a_finger_moves_its_own_motors_and_the_thumb_only(hand: Hand, params: network.Params) -> None:
    tips = random_tips(1)
    before = network.forward(params, hand, tips)
    tips[1] += 0.02
    moved = np.asarray(network.forward(params, hand, tips) != before)
    assert [name for name, m in zip(hand.motor_names, moved, strict=True) if m] == [
        *("thumb_rotation", "thumb_mcp", "thumb_dip", "spread", "index_mcp", "index_pip")
    ]


def test_numpy_computes_what_jax_does(hand: Hand, params: network.Params) -> None:
    tips = random_tips(2, 7)
    plain = network.forward(jax.tree.map(np.asarray, params), hand, tips, np)
    np.testing.assert_allclose(plain, network.forward(params, hand, tips), atol=1e-6)


def test_closeness_falls_smoothly_from_one_to_zero() -> None:
    gaps = jnp.linspace(0.0, 0.07, 141)
    values, slopes = losses.closeness(gaps), jax.vmap(jax.grad(losses.closeness))(gaps)
    np.testing.assert_array_equal(values[gaps <= losses.PINCHED_M], 1.0)
    np.testing.assert_array_equal(values[gaps >= losses.APART_M], 0.0)
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
    pads = jnp.array([[[0.0, 0, 0], [0.05, 0, 0]]])
    assert losses.pinch_loss(pads, jnp.array([[0.01]])) == pytest.approx((0.05 - losses.PAD_GAP_M) ** 2, rel=1e-4)
    assert losses.pinch_loss(pads, jnp.array([[0.06]])) == 0.0
    assert losses.pinch_loss(pads * 0.4, jnp.array([[0.01]])) == 0.0
    assert np.isfinite(jax.grad(losses.pinch_loss)(pads * 0.0, jnp.array([[0.01]]))).all()
