"""Flow matching: its samples, its gradient, and a problem with a known answer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dexhil.models.config import TINY, AttentionConfig
from dexhil.models.sampling import sample_actions
from dexhil.models.vla import draw_times, flow_loss, init_params
from tests.models import pure
from tests.tolerances import TINY_VLA, assert_close

flow_errors = jax.jit(pure.flow_errors, static_argnums=1)


def _draws(config, samples, batch=2):
    rng = np.random.default_rng(4)
    noise = rng.normal(size=(batch, samples, config.chunk, config.padded_action_dim))
    return noise.astype(np.float32), rng.uniform(size=(batch, samples)).astype(np.float32)


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_many_samples_are_single_runs_with_the_same_noise(variant, random_params, random_inputs):
    config = dataclasses.replace(TINY, variant=variant)
    params, inputs = random_params(config), random_inputs(config)
    noise, t = _draws(config, 3)
    together = flow_errors(params, config, inputs, noise, t)
    alone = [flow_errors(params, config, inputs, noise[:, m : m + 1], t[:, m : m + 1]) for m in range(3)]
    assert_close(together, np.concatenate(alone, axis=1), TINY_VLA)
    per_token = np.broadcast_to(t[..., None], (*t.shape, config.chunk))
    assert_close(flow_errors(params, config, inputs, noise, per_token), together, TINY_VLA)


def test_loss_is_the_mean_of_its_samples_and_follows_the_key(tiny):
    config, params, inputs = tiny
    draw = jax.jit(lambda key: flow_loss(params, config, inputs, key, flow_samples=4))
    loss = draw(jax.random.key(0))
    assert loss.shape == (2, config.chunk)
    np.testing.assert_array_equal(loss, draw(jax.random.key(0)))
    assert not np.allclose(loss, draw(jax.random.key(1)))


def test_given_actions_are_clean_and_at_time_1(tiny):
    config, params, inputs = tiny
    key, delay = jax.random.key(0), np.array([0, 3])
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (2, 3, config.chunk, config.action_dim))
    t = draw_times(config, time_key, (2, 3))
    times = jnp.where(np.arange(config.chunk) < delay[:, None, None], 1.0, t[..., None])
    errors = flow_errors(params, config, inputs, noise, times)
    loss = jax.jit(lambda: flow_loss(params, config, inputs | {"delay": delay}, key, flow_samples=3))()
    assert_close(loss, errors.mean(axis=1), TINY_VLA)
    plain = flow_errors(params, config, inputs, noise, t).mean(axis=1)
    assert_close(loss[0], plain[0], TINY_VLA)  # delay 0: the plain loss
    other = noise.at[1, :, :3].add(5.0)  # what is given has no noise for the rest to see
    np.testing.assert_array_equal(flow_errors(params, config, inputs, other, times)[1, :, 3:], errors[1, :, 3:])


def test_padded_action_dims_do_not_count(random_params, random_inputs):
    config = dataclasses.replace(TINY, action_width=24)
    params, inputs = random_params(config), random_inputs(config)
    noise, t = _draws(config, 2)
    bias = params["action_out_proj"]["bias"] + 100.0 * (np.arange(24) >= config.action_dim)
    other = params | {"action_out_proj": params["action_out_proj"] | {"bias": bias}}
    expected = flow_errors(params, config, inputs, noise, t)
    np.testing.assert_array_equal(flow_errors(other, config, inputs, noise, t), expected)


@functools.partial(jax.jit, static_argnums=1)
@jax.value_and_grad
def _loss_and_gradient(params, config, inputs, noise, t):
    return pure.flow_errors(params, config, inputs, noise, t).mean()


def test_gradient_is_the_finite_difference(tiny):
    config, params, inputs = tiny
    noise, t = _draws(config, 1)
    rng = np.random.default_rng(7)
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    step = 1e-3

    def shifted(sign):
        moved = jax.tree.map(lambda p, d: p + sign * step * d, params, direction)
        return _loss_and_gradient(moved, config, inputs, noise, t)[0]

    gradient = _loss_and_gradient(params, config, inputs, noise, t)[1]
    slope = sum(jax.tree.leaves(jax.tree.map(np.vdot, gradient, direction)))
    np.testing.assert_allclose(slope, (shifted(1) - shifted(-1)) / (2 * step), rtol=2e-2)


def test_every_parameter_that_acts_has_a_gradient(tiny):
    """Only the language model's final norm is read by neither pass: it would serve a text head."""
    config, params, inputs = tiny
    gradient = _loss_and_gradient(params, config, inputs, *_draws(config, 1))[1]
    silent = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not np.abs(leaf).max() > 0
    }
    assert silent == {"PaliGemma/llm/final_norm/scale"}


def test_times_favour_the_noise():
    times = draw_times(TINY, jax.random.key(0), (20000,))
    assert float(times.mean()) == pytest.approx(0.999 * (1 - 1.5 / 2.5), abs=0.01)
    assert 0.0 <= float(times.min()) <= float(times.max()) <= 0.999


def test_training_recovers_a_linear_map_of_the_state(random_inputs):
    """Actions are a fixed matrix times the state: samples of the trained flow must be those actions."""
    shared = AttentionConfig(depth=1, num_heads=2, num_kv_heads=1, head_dim=8)
    config = dataclasses.replace(
        TINY, chunk=2, action_dim=2, state_dim=2, variant="pi0", cameras=("scene",), attention=shared
    )
    matrix = np.array([[0.8, -0.5], [0.3, 0.9]], np.float32)
    fixed = random_inputs(config, batch=32)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 300))

    def batch(seed):
        state = np.random.default_rng(seed).normal(size=(32, 2)).astype(np.float32)
        return fixed | {"state": state, "actions": np.repeat((state @ matrix)[:, None], 2, axis=1)}

    @jax.jit
    def step(params, state, inputs, key):
        loss, grads = jax.value_and_grad(lambda p: flow_loss(p, config, inputs, key, flow_samples=4).mean())(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = init_params(config, jax.random.key(0))
    state, losses = jax.jit(optimizer.init)(params), []
    for index in range(300):
        params, state, loss = step(params, state, batch(index), jax.random.key(index))
        losses.append(float(loss))
    held_out = batch(1000)
    sampled = sample_actions(params, config, held_out, jax.random.key(5), num_steps=20)
    assert np.mean(losses[-50:]) < 0.3 * losses[0]
    error = np.sqrt(np.square(sampled - held_out["actions"]).mean())
    assert error < 0.3 * np.std(held_out["actions"])
