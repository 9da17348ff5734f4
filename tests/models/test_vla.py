"""The two passes against an independent joint pass, and what must or must not change an output."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.models.config import TINY, AttentionConfig
from dexhil.models.sampling import sample_actions
from dexhil.models.vla import init_params
from tests.models import reference
from tests.models.pure import denoise, encode_prefix
from tests.tolerances import TINY_VLA, assert_close

VARIANTS = [("pi0", "token"), ("pi05", "token"), ("pi0", "none"), ("pi05", "text")]


@functools.partial(jax.jit, static_argnums=1)
def _velocity(params, config, inputs, x_t, t):
    kv, mask = encode_prefix(params, config, inputs["images"], inputs["tokens"], inputs["token_mask"])
    return denoise(params, config, kv, mask, x_t, t, inputs["state"])


_joint_velocity = jax.jit(reference.joint_velocity, static_argnums=(1, 5))


def _noisy(config, batch=2):
    rng = np.random.default_rng(9)
    x_t = rng.normal(size=(batch, config.chunk, config.action_dim)).astype(np.float32)
    return x_t, rng.uniform(size=batch).astype(np.float32)


def _per_token(t, config):
    return jnp.broadcast_to(t[:, None], (len(t), config.chunk))


@pytest.mark.parametrize(("variant", "state_input"), VARIANTS)
def test_two_passes_are_the_joint_pass(variant, state_input, random_params, random_inputs):
    config = dataclasses.replace(TINY, variant=variant, state_input=state_input)
    params, inputs = random_params(config), random_inputs(config)
    x_t, t = _noisy(config)
    expected = _joint_velocity(params, config, inputs, x_t, _per_token(t, config))
    assert_close(_velocity(params, config, inputs, x_t, t), expected, TINY_VLA)


def test_grouped_heads_and_scanned_layers_are_the_joint_pass(random_params, random_inputs):
    shared = AttentionConfig(depth=5, num_heads=4, num_kv_heads=2, head_dim=6)
    config = dataclasses.replace(TINY, attention=shared, camera_embedding=False, remat=True)
    params, inputs = random_params(config), random_inputs(config)
    x_t, t = _noisy(config)
    expected = _joint_velocity(params, config, inputs, x_t, _per_token(t, config))
    assert_close(_velocity(params, config, inputs, x_t, t), expected, 2 * TINY_VLA)


def test_time_may_differ_from_action_to_action(tiny):
    config, params, inputs = tiny
    x_t, t = _noisy(config)
    ramp = jnp.linspace(0.0, 1.0, config.chunk) * t[:, None]
    expected = _joint_velocity(params, config, inputs, x_t, ramp)
    assert_close(_velocity(params, config, inputs, x_t, ramp), expected, TINY_VLA)
    constant = _velocity(params, config, inputs, x_t, _per_token(t, config))
    assert_close(constant, _velocity(params, config, inputs, x_t, t), TINY_VLA)


def test_a_state_token_inside_the_prefix_block_is_noticed(tiny):
    config, params, inputs = tiny
    x_t, t = _noisy(config)
    moved = _joint_velocity(params, config, inputs, x_t, _per_token(t, config), 0)
    assert np.abs(moved - _velocity(params, config, inputs, x_t, t)).max() > 1e-2


def test_padding_tokens_change_nothing(tiny):
    config, params, inputs = tiny
    x_t, t = _noisy(config)
    other = inputs | {"tokens": jnp.where(inputs["token_mask"], inputs["tokens"], 7)}
    expected = _velocity(params, config, inputs, x_t, t)
    np.testing.assert_array_equal(_velocity(params, config, other, x_t, t), expected)
    shorter = dataclasses.replace(config, max_tokens=config.max_tokens - 3)
    cut = inputs | {name: inputs[name][:, :-3] for name in ("tokens", "token_mask")}
    assert_close(_velocity(params, shorter, cut, x_t, t), expected, TINY_VLA)


@pytest.mark.parametrize("part", ["scene", "wrist", "tokens", "state"])
def test_every_real_input_changes_the_output(part, tiny):
    config, params, inputs = tiny
    x_t, t = _noisy(config)
    if part in config.cameras:
        changed = inputs | {"images": inputs["images"] | {part: -inputs["images"][part]}}
    else:
        changed = inputs | {part: (inputs[part] + 1) % config.vocab_size}
    difference = _velocity(params, config, changed, x_t, t) - _velocity(params, config, inputs, x_t, t)
    assert np.abs(difference).max() > 1e-3


def test_cameras_are_told_apart_and_their_order_in_the_inputs_does_not_matter(tiny):
    config, params, inputs = tiny
    x_t, t = _noisy(config)
    images = inputs["images"]
    expected = _velocity(params, config, inputs, x_t, t)
    reordered = inputs | {"images": dict(reversed(images.items()))}
    np.testing.assert_array_equal(_velocity(params, config, reordered, x_t, t), expected)
    swapped = inputs | {"images": {"scene": images["wrist"], "wrist": images["scene"]}}
    assert np.abs(_velocity(params, config, swapped, x_t, t) - expected).max() > 1e-3


def test_a_fresh_expert_is_gated_shut(random_inputs):
    """Zero-initialised modulation: a fresh pi0.5 expert passes its input to the output, whatever it sees."""
    params, inputs = init_params(TINY, jax.random.key(0)), random_inputs(TINY)
    x_t, t = _noisy(TINY)
    tokens = x_t @ params["action_in_proj"]["kernel"]
    expected = reference.rms(tokens) @ params["action_out_proj"]["kernel"]
    assert_close(_velocity(params, TINY, inputs, x_t, t), expected, TINY_VLA)


def test_padded_widths_change_nothing_but_the_weights_shapes(random_params, random_inputs):
    config = dataclasses.replace(TINY, action_width=32, state_width=24)
    params, inputs = random_params(config), random_inputs(config)
    x_t, t = _noisy(config)
    padded = jnp.pad(x_t, ((0, 0), (0, 0), (0, 13)))
    narrow = _velocity(params, config, inputs, x_t, t)
    assert narrow.shape == x_t.shape
    assert_close(narrow, _velocity(params, config, inputs, padded, t)[..., : config.action_dim], TINY_VLA)


def test_bf16_activations_stay_close_and_return_float32(tiny):
    config, params, inputs = tiny
    x_t, t = _noisy(config)
    half = _velocity(params, dataclasses.replace(config, dtype="bfloat16"), inputs, x_t, t)
    full = _velocity(params, config, inputs, x_t, t)
    assert half.dtype == jnp.float32
    assert np.abs(half - full).mean() < 0.05 * np.abs(full).mean()


def test_bfloat16_parameters_act_as_the_same_values_in_float32(tiny):
    config, params, inputs = tiny
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    x_t, t = _noisy(config)
    expected = _velocity(widened, config, inputs, x_t, t)
    assert_close(_velocity(params, config, inputs, x_t, t), expected, TINY_VLA)


def test_sampling_is_euler_from_noise_to_data(tiny):
    config, params, inputs = tiny
    x = jax.random.normal(jax.random.key(3), (2, config.chunk, config.action_dim))
    for t in (0.0, 0.25, 0.5, 0.75):
        x = x + 0.25 * _velocity(params, config, inputs, x, jnp.full((2,), t))
    sampled = sample_actions(params, config, inputs, jax.random.key(3), num_steps=4)
    assert_close(sampled, x, 4 * TINY_VLA)
