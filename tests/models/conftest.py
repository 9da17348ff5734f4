"""Small models with every parameter away from zero, and random inputs for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.models.config import TINY
from dexhil.models.vla import init_params


@pytest.fixture(scope="session")
def random_params():
    """config -> parameters; every leaf is drawn, because zero-initialised norms and gates hide bugs."""

    def build(config, seed=0):
        shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
        rng = np.random.default_rng(seed)
        return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), shapes)

    return build


@pytest.fixture(scope="session")
def random_inputs():
    """(config, batch) -> model inputs, the last three tokens being padding."""

    def build(config, batch=2, seed=0):
        rng = np.random.default_rng(seed)
        size, length = config.image_size, config.max_tokens
        pixels = rng.uniform(-1, 1, (len(config.cameras), batch, size, size, 3)).astype(np.float32)
        inputs = {
            "images": dict(zip(config.cameras, pixels, strict=True)),
            "tokens": rng.integers(0, config.vocab_size, (batch, length), np.int32),
            "token_mask": np.broadcast_to(np.arange(length) < length - 3, (batch, length)),
            "state": rng.normal(size=(batch, config.state_dim)).astype(np.float32),
            "actions": rng.normal(size=(batch, config.chunk, config.action_dim)).astype(np.float32),
        }
        return jax.tree.map(jnp.asarray, inputs)

    return build


@pytest.fixture(scope="session")
def tiny(random_params, random_inputs):
    """(config, params, inputs) of the smallest model."""
    return TINY, random_params(TINY), random_inputs(TINY)
