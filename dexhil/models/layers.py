"""Building blocks on pure trees: Gemma's and SigLIP's layers as functions.

Axes: B batch, M flow samples of one observation, T query tokens, S key tokens, N query heads, K key-value heads,
G = N / K, h head size, D width, F MLP width. Norms, rotations and softmax are computed in float32, whatever the dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dexhil.models.params import Params

_MASKED = -2.3819763e38  # large and finite: a row without a key stays finite


def dense(params: Params, x: Float[Array, "*B C"]) -> Float[Array, "*B D"]:
    """Linear layer in the dtype of `x`."""
    return x @ params["kernel"].astype(x.dtype) + params["bias"].astype(x.dtype)


def layer_norm(params: Params, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """SigLIP's norm, epsilon 1e-6."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
    return (normed * params["scale"] + params["bias"]).astype(x.dtype)


def rms_norm(
    params: Params, x: Float[Array, "*B T D"], cond: Float[Array, "*B U D"] | None = None
) -> tuple[Float[Array, "*B T D"], Float[Array, "*B T D"] | None]:
    """Gemma's norm, multiplied by (1 + w); with `cond`, pi0.5's adaptive one. Returns the result and the residual gate.

    cond: one row per leading token; the last row holds for all the tokens that remain.
    """
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-6)
    if cond is None:
        return (normed * (1 + params["scale"])).astype(x.dtype), None
    modulation = _spread(dense(params["Dense_0"], cond), x.shape[-2])
    scale, shift, gate = jnp.split(modulation, 3, axis=-1)
    return (normed * (1 + scale.astype(jnp.float32)) + shift).astype(x.dtype), gate


def _spread(rows: Float[Array, "*B U D"], tokens: int) -> Float[Array, "*B T D"]:
    last = jnp.broadcast_to(rows[..., -1:, :], (*rows.shape[:-2], tokens - rows.shape[-2] + 1, rows.shape[-1]))
    return jnp.concatenate([rows[..., :-1, :], last], axis=-2)


def gated_residual(
    x: Float[Array, "*B T D"], update: Float[Array, "*B T D"], gate: Float[Array, "*B T D"] | None
) -> Float[Array, "*B T D"]:
    return x + update if gate is None else x + update * gate


def rope(x: Float[Array, "*B T N h"], positions: Int[Array, "*B T"]) -> Float[Array, "*B T N h"]:
    """Rotates the halves of each head by position / 10000^(2i/h)."""
    half = x.shape[-1] // 2
    frequency = 1e4 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


Source = tuple[Array, Array, Array]  # keys, values, mask: [B S K h], [B S K h], [B 1 T S], or with M after B


def attend(q: Float[Array, "B M T N h"], sources: Sequence[Source]) -> Float[Array, "B M T N h"]:
    """Softmax attention over the union of `sources`; keys without the M axis are shared by all flow samples."""
    groups = sources[0][0].shape[-2]
    q = q.reshape(*q.shape[:3], groups, -1, q.shape[-1]) * q.shape[-1] ** -0.5
    logits = [_logits(q, keys, mask) for keys, _, mask in sources]
    probs = jax.nn.softmax(jnp.concatenate(logits, axis=-1), axis=-1).astype(q.dtype)
    out, start = 0.0, 0
    for keys, values, _ in sources:
        size = keys.shape[-3]
        spelling = "BMKGTS,BSKh->BMTKGh" if values.ndim == 4 else "BMKGTS,BMSKh->BMTKGh"
        out += jnp.einsum(spelling, probs[..., start : start + size], values)
        start += size
    return out.reshape(*out.shape[:3], -1, out.shape[-1])


def _logits(q: Array, keys: Array, mask: Bool[Array, "B #M #T S"]) -> Float[Array, "B M K G T S"]:
    spelling = "BMTKGh,BSKh->BMKGTS" if keys.ndim == 4 else "BMTKGh,BMSKh->BMKGTS"
    logits = jnp.einsum(spelling, q, keys, preferred_element_type=jnp.float32)
    return jnp.where(mask[:, :, None, None], logits, _MASKED)


def geglu(params: Params, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Gemma's MLP: GELU (tanh) of one branch times the other."""
    gating = params["gating_einsum"].astype(x.dtype)
    return (jax.nn.gelu(x @ gating[0], approximate=True) * (x @ gating[1])) @ params["linear"].astype(x.dtype)


def time_embedding(t: Float[Array, "*B"], width: int) -> Float[Array, "*B width"]:
    """Sine and cosine of t in [0, 1] at periods from 0.004 to 4."""
    period = 4e-3 * 1e3 ** jnp.linspace(0.0, 1.0, width // 2)
    angle = t[..., None].astype(jnp.float32) * (2 * math.pi / period)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def fold_patches(image: Float[Array, "B Y X C"], factor: int) -> Float[Array, "B Y/f X/f f*f*C"]:
    """Non-overlapping factor x factor neighbourhoods as channels, row first."""
    b, y, x, c = image.shape
    split = image.reshape(b, y // factor, factor, x // factor, factor, c)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(b, y // factor, x // factor, factor * factor * c)
