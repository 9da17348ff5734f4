"""The module's methods as pure functions of (params, config, …)."""

import jax.numpy as jnp

from dexhil.models.vla import bind


def encode_prefix(params, config, *args):
    """Keys and values, and which tokens are real."""
    return bind(params, config).encode_prefix(*args)[:2]


def denoise(params, config, kv, mask, x_t, t, state):
    """Of one flow sample, x_t [B H A] of the real or the padded width, t [B] or [B H]."""
    wide = jnp.pad(x_t, ((0, 0), (0, 0), (0, config.padded_action_dim - x_t.shape[-1])))
    v = bind(params, config).denoise(kv, mask, wide[:, None], t.reshape(len(t), 1, -1), state)
    return v[:, 0, :, : x_t.shape[-1]]


def flow_errors(params, config, *args):
    return bind(params, config).flow_errors(*args)
