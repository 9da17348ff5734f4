"""Real-time chunking: guidance against its closed form on a linear field, committed actions, what may be asked for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.models.config import TINY
from dexhil.models.sampling import (
    BETA,
    Prefix,
    check_horizon,
    committed,
    guided,
    integrate,
    prefix_weights,
    sample_actions,
)
from tests.models.pure import denoise, encode_prefix
from tests.tolerances import FEW, assert_close

CHUNK, WIDTH, PADDED, STEPS = 6, 2, 3, 5
LENGTH, DELAY = 4, 2


def _weights_by_the_formula(chunk, length, delay):
    horizon, weights = chunk - length, []
    for i in range(chunk):
        c = (chunk - horizon - i) / (chunk - horizon - delay + 1)
        soft = c * (np.exp(c) - 1) / (np.e - 1) if i < chunk - horizon else 0.0
        weights.append(1.0 if i < delay else soft)
    return np.array(weights)


@pytest.mark.parametrize(("length", "delay"), [(10, 0), (8, 0), (12, 3), (8, 8), (4, 4), (5, 1), (0, 0)])
def test_weights_are_the_papers_schedule(length, delay):
    weights = prefix_weights(16, length, delay)
    assert_close(weights, _weights_by_the_formula(16, length, delay), FEW)
    assert np.all(np.diff(weights) <= 0)


def _linear_problem():
    """Field v(x, t) = M (1 + t) x + b over the flattened chunk, noise and target; M has no symmetry."""
    rng = np.random.default_rng(2)
    size = CHUNK * PADDED
    matrix, offset = rng.normal(size=(size, size)) / size**0.5, rng.normal(size=size)
    noise, target = rng.normal(size=(1, CHUNK, PADDED)), rng.normal(size=(1, CHUNK, WIDTH))

    def field(x, t):
        time = t[..., None] if t.ndim == 2 else t[:, None, None]
        mixed = jnp.asarray(matrix, jnp.float32) @ ((1 + time) * x).reshape(-1)
        return (mixed + jnp.asarray(offset, jnp.float32)).reshape(x.shape)

    return matrix, offset, noise, target, field


def test_guidance_of_a_linear_field_is_its_closed_form():
    """The Jacobian of a(x) = x + (1 - t) (M (1 + t) x + b) is I + (1 - t^2) M, known without differentiation."""
    matrix, offset, noise, target, field = _linear_problem()
    prefix = Prefix(jnp.asarray(target, jnp.float32), jnp.int32(LENGTH), jnp.int32(DELAY))
    found = integrate(guided(field, prefix), jnp.asarray(noise, jnp.float32), STEPS)
    weights = np.zeros((CHUNK, PADDED))
    weights[:, :WIDTH] = _weights_by_the_formula(CHUNK, LENGTH, DELAY)[:, None]
    wanted = np.pad(target[0], ((0, 0), (0, PADDED - WIDTH)))
    x = noise.reshape(-1)
    for t in np.arange(STEPS) / STEPS:
        v = (1 + t) * matrix @ x + offset
        jacobian = np.eye(x.size) + (1 - t) * (1 + t) * matrix
        error = weights.reshape(-1) * (wanted.reshape(-1) - (x + (1 - t) * v))
        r2 = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
        gain = min(BETA, (1 - t) / (t * r2)) if t else BETA
        x = x + (v + gain * jacobian.T @ error) / STEPS
    np.testing.assert_allclose(found.reshape(-1), x, atol=1e-5, rtol=1e-5)


def test_committed_actions_stay_and_the_rest_sees_them_at_time_1():
    matrix, offset, noise, target, field = _linear_problem()
    prefix = Prefix(jnp.asarray(target, jnp.float32), jnp.int32(LENGTH), jnp.int32(DELAY))
    after, pin = committed(field, prefix, PADDED)
    found = integrate(after, jnp.asarray(noise, jnp.float32), STEPS, pin)[0]
    x = noise[0].copy()
    for t in np.arange(STEPS) / STEPS:
        x[:DELAY] = np.pad(target[0, :DELAY], ((0, 0), (0, 1)))
        time = np.where(np.arange(CHUNK) < DELAY, 1.0, t)[:, None]
        x = x + (matrix @ ((1 + time) * x).reshape(-1) + offset).reshape(x.shape) / STEPS
    np.testing.assert_array_equal(found[:DELAY, :WIDTH], prefix.actions[0, :DELAY])
    np.testing.assert_allclose(found[DELAY:], x[DELAY:], atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def policy(random_params, random_inputs):
    """(config with padded actions, parameters, inputs, the earlier chunk's actions)."""
    config = dataclasses.replace(TINY, action_width=24, remat=True)
    earlier = np.random.default_rng(3).normal(size=(2, config.chunk, config.action_dim)).astype(np.float32)
    return config, random_params(config), random_inputs(config), earlier


def _sample(policy, length=None, delay=0, rtc="guided"):
    config, params, inputs, earlier = policy
    prefix = None if length is None else Prefix(jnp.asarray(earlier), jnp.int32(length), jnp.int32(delay))
    return np.asarray(sample_actions(params, config, inputs, jax.random.key(0), 5, prefix, rtc))


def test_guidance_pulls_towards_the_earlier_chunk(policy):
    earlier = policy[-1]
    plain, pulled = _sample(policy), _sample(policy, 8, 2)
    assert np.abs(pulled - earlier)[:, :2].mean() < 0.5 * np.abs(plain - earlier)[:, :2].mean()
    np.testing.assert_allclose(_sample(policy, 0, 0), plain, atol=2e-5)  # nothing remains: plain sampling


def test_the_pull_is_the_gradient_of_the_weighted_distance(policy):
    """-1/2 d/dx sum W (Y - a(x))^2, by finite differences along a random direction."""
    config, params, inputs, earlier = policy
    prefix = Prefix(jnp.asarray(earlier), jnp.int32(8), jnp.int32(2))
    t = jnp.full((2,), 0.5)
    rng = np.random.default_rng(5)
    x, direction = (jnp.asarray(rng.normal(size=(2, config.chunk, 24)), jnp.float32) for _ in range(2))

    @functools.partial(jax.jit, static_argnums=1)
    def velocities(params, config, x):
        kv, mask = encode_prefix(params, config, inputs["images"], inputs["tokens"], inputs["token_mask"])

        def field(x, t):
            return denoise(params, config, kv, mask, x, t, inputs["state"])

        return field(x, t), guided(field, prefix)(x, t)

    def distance(x):
        data = x + 0.5 * velocities(params, config, x)[0]
        weights = _weights_by_the_formula(config.chunk, 8, 2)[:, None]
        return 0.5 * float((weights * np.square(earlier - np.asarray(data, np.float64)[..., :19])).sum())

    v, pulled = velocities(params, config, x)
    slope = (distance(x + 1e-2 * direction) - distance(x - 1e-2 * direction)) / 2e-2
    gain = 2.0  # (t^2 + (1 - t)^2) / (t (1 - t)) at t = 1/2
    np.testing.assert_allclose(float(((pulled - v) * direction).sum()) / gain, -slope, rtol=2e-2)


def test_a_trained_flow_returns_what_was_committed_and_plans_the_rest_from_it(policy):
    earlier = policy[-1]
    chunk = _sample(policy, 8, 3, "trained")
    np.testing.assert_array_equal(chunk[:, :3], earlier[:, :3])
    plain = _sample(policy)
    assert np.abs(chunk - plain)[:, 3:].max() > 1e-3
    np.testing.assert_allclose(_sample(policy, 8, 0, "trained"), plain, atol=2e-5)


@pytest.mark.parametrize(("length", "delay"), [(8, 0), (8, 8), (16, 0), (12, 4), (1, 1), (8, 3)])
def test_what_a_loop_can_meet_is_accepted(length, delay):
    check_horizon(16, length, delay)


@pytest.mark.parametrize(
    ("length", "delay", "message"),
    [
        (3, 4, r"delay 4 and 13 executed \(3 of 16 actions remain\)"),
        (14, 4, r"delay 4 and 2 executed \(14 of 16 actions remain\); start the next inference when at least"),
        (17, 0, r"delay 0 and -1 executed"),
        (8, -1, r"expected 0 <= delay <= executed <= 16 - delay, got delay -1"),
        (8, 9, r"got delay 9 and 8 executed"),
    ],
)
def test_what_cannot_be_bridged_is_named(length, delay, message):
    with pytest.raises(ValueError, match=message):
        check_horizon(16, length, delay)
