"""Layers in bfloat16: inputs and results are rounded to it, nothing between that feeds a softmax or a norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dexhil.models.layers import RMSNorm, attend
from tests.tolerances import relative, roundings

EVERYWHERE = jnp.ones((1, 1, 1, 1), bool)


def rms(x):
    return float(np.sqrt(np.square(np.asarray(x, np.float64)).mean()))


def normal(seed, *shape, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.bfloat16)


@pytest.mark.parametrize("scale", [1.0, 4.0, 8.0])
@pytest.mark.parametrize("head", [72, 256])  # SigLIP's and Gemma's: the root of one is a power of two
@pytest.mark.parametrize("samples", [(), (2,)])
def test_attention_in_bfloat16_rounds_weights_and_result_only(scale, head, samples):
    """Against float32 on the same numbers: two roundings, of the weights and of the result, at random within half a
    unit, which is a root mean square of 1 / sqrt(3) of it each.
    """
    q, k, v = normal(0, 1, *samples, 16, 4, head, scale=scale), normal(1, 1, 200, 2, head), normal(2, 1, 200, 2, head)
    exact = attend(q.astype(jnp.float32), [(k.astype(jnp.float32), v.astype(jnp.float32), EVERYWHERE)])
    found = attend(q, [(k, v, EVERYWHERE)])
    assert found.dtype == jnp.bfloat16
    assert rms(np.asarray(found, np.float64) - exact) < roundings(np.sqrt(2 / 3), dtype=jnp.bfloat16) * rms(exact)


def test_adaptive_norm_in_bfloat16_rounds_its_result_only():
    norm = RMSNorm(64, "bfloat16", True, nnx.Rngs(0))
    norm.Dense_0.kernel[...] = jax.random.normal(jax.random.key(0), (64, 192))
    x, cond = normal(1, 2, 5, 64), normal(2, 2, 1, 64)
    kernel = np.asarray(norm.Dense_0.kernel[...].astype(jnp.bfloat16), np.float64)
    scale, shift, gate = np.split(np.asarray(cond, np.float64) @ kernel, 3, axis=-1)
    wide = np.asarray(x, np.float64)
    exact = wide / np.sqrt(np.square(wide).mean(-1, keepdims=True) + 1e-6) * (1 + scale) + shift
    found, found_gate = norm(x, cond)
    sums = roundings(64, gate)  # of 64 products each, in float32
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=relative(1, jnp.bfloat16), atol=8 * sums)
    np.testing.assert_allclose(np.asarray(found_gate), gate, atol=sums)
