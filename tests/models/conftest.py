"""Small models with every parameter away from zero, and random inputs for them."""

import jax
import jax.numpy as jnp
import pytest

from dexhil.models.config import TINY
from dexhil.models.vla import init_params


@pytest.fixture(scope="session")
def random_params():
    """config -> parameters; every leaf is drawn, because zero-initialised norms and gates hide bugs."""

    def build(config, seed=0):
        shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
        leaves, tree = jax.tree.flatten(shapes)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        drawn = [0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, drawn)

    return build


@pytest.fixture(scope="session")
def random_inputs():
    """(config, batch) -> model inputs, the last three tokens being padding."""

    def build(config, batch=2, seed=0):
        keys = jax.random.split(jax.random.key(seed), 4)
        size, cameras = config.image_size, config.cameras
        pixels = jax.random.uniform(keys[0], (len(cameras), batch, size, size, 3), minval=-1.0)
        length = config.max_tokens
        return {
            "images": dict(zip(cameras, pixels, strict=True)),
            "tokens": jax.random.randint(keys[1], (batch, length), 0, config.vocab_size),
            "token_mask": jnp.broadcast_to(jnp.arange(length) < length - 3, (batch, length)),
            "state": jax.random.normal(keys[2], (batch, config.state_dim)),
            "actions": jax.random.normal(keys[3], (batch, config.chunk, config.action_dim)),
        }

    return build


@pytest.fixture(scope="session")
def tiny(random_params, random_inputs):
    """(config, params, inputs) of the smallest model."""
    return TINY, random_params(TINY), random_inputs(TINY)
