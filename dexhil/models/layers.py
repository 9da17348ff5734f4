"""Building blocks: what Gemma and SigLIP share beyond Flax's own layers, and stacks of blocks for `jax.lax.scan`.

Axes: B batch (*B: any leading axes), M flow samples of one observation, T query tokens, U rows of a condition, S key
tokens, N query heads, K key-value heads, G = N / K, R = T * G rows, h head size, C channels, D width.
Norms, rotations and softmax are computed in float32, whatever the dtype, and so are the products that feed them.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import zeros
from jaxtyping import Array, Float, Int

_MASKED = -2.3819763e38  # large and finite: a row without a key stays finite


class RMSNorm(nnx.Module):
    """Gemma's norm, times (1 + scale); with a condition pi0.5's: scale, shift and gate linear in it, at first 0."""

    def __init__(self, width: int, dtype: str, adaptive: bool, rngs: nnx.Rngs) -> None:
        if adaptive:
            self.Dense_0 = nnx.Linear(
                width, 3 * width, kernel_init=zeros, dtype=dtype, preferred_element_type=jnp.float32, rngs=rngs
            )
        else:
            self.scale = nnx.Param(jnp.zeros(width))

    def __call__(
        self, x: Float[Array, "*B T D"], cond: Float[Array, "*B U D"] | None = None
    ) -> tuple[Float[Array, "*B T D"], Float[Array, "*B V D"] | None]:
        """The normed tokens and the residual gate. cond: one row, one per token, or the first's and the others'."""
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-6)
        if cond is None:
            return (normed * (1 + self.scale[...].astype(jnp.float32))).astype(x.dtype), None
        scale, shift, gate = (_spread(part, x.shape[-2]) for part in jnp.split(self.Dense_0(cond), 3, axis=-1))
        return (normed * (1 + scale) + shift).astype(x.dtype), gate


def _spread(rows: Float[Array, "*B U D"], tokens: int) -> Float[Array, "*B V D"]:
    """Rows that broadcast over the tokens; two rows are the first token's and everyone else's."""
    if rows.shape[-2] in (1, tokens):
        return rows
    return jnp.where(jnp.arange(tokens)[:, None] == 0, rows[..., :1, :], rows[..., 1:, :])


def gated_residual(
    x: Float[Array, "*B T D"], update: Float[Array, "*B T D"], gate: Float[Array, "*B V D"] | None
) -> Float[Array, "*B T D"]:
    """x + update, or x + update * gate, in the dtype of `x`."""
    return x + update if gate is None else (x + update * gate).astype(x.dtype)


def rotation(positions: Int[Array, "*B T"], head_dim: int) -> tuple[Array, Array]:
    """Cosine [*B T 1 1 h/2] and signed sine [*B T 1 2 h/2] of position / 10000^(2i/h), once for all layers."""
    half = head_dim // 2
    frequency = 1e4 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None, None].astype(jnp.float32) * frequency
    sine = jnp.sin(angle)
    return jnp.cos(angle), jnp.concatenate([-sine, sine], axis=-2)


def rope(x: Float[Array, "*B T N h"], angles: tuple[Array, Array]) -> Float[Array, "*B T N h"]:
    """Rotates the two halves of each head by `rotation`'s angles. Reversing the halves keeps it one fused loop."""
    cosine, sine = angles
    halves = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, -1)
    return (halves * cosine + halves[..., ::-1, :] * sine).reshape(x.shape).astype(x.dtype)


def project(x: Float[Array, "*B T D"], w: Float[Array, "N D h"]) -> Float[Array, "*B T N h"]:
    """Per-head projection as one matrix product, so that no activation is transposed."""
    flat = w.astype(x.dtype).transpose(1, 0, 2).reshape(w.shape[1], -1)
    return (x @ flat).reshape(*x.shape[:-1], w.shape[0], w.shape[2])


def merge_heads(x: Float[Array, "*B T N h"], w: Float[Array, "N h D"]) -> Float[Array, "*B T D"]:
    """Inverse of `project` in shape: all heads back into one width."""
    return x.reshape(*x.shape[:-2], -1) @ w.astype(x.dtype).reshape(-1, w.shape[-1])


# Keys and values [B S K h], or [B M S K h]; mask bool, broadcastable to [B M T S].
Source = tuple[Array, Array, Array]


def attend(q: Float[Array, "B *M T N h"], sources: Sequence[Source]) -> Float[Array, "B *M T N h"]:
    """Softmax attention over the union of `sources`; keys without the M axis are shared by all flow samples."""
    if q.ndim == 4:
        return attend(q[:, None], sources)[:, 0]
    batch, samples, tokens, heads, size = q.shape
    groups = sources[0][0].shape[-2]
    rows = q.reshape(batch, samples, tokens, groups, -1, size).transpose(0, 3, 1, 2, 4, 5)
    rows = rows.reshape(batch, groups, samples, -1, size)
    logits = [_logits(rows, keys, mask, heads // groups) for keys, _, mask in sources]
    top = functools.reduce(jnp.maximum, [part.max(axis=-1, keepdims=True) for part in logits])
    weights = [jnp.exp(part - jax.lax.stop_gradient(top)) for part in logits]
    total = _add(part.sum(axis=-1, keepdims=True) for part in weights)
    values = [_heads_first(values) for _, values, _ in sources]
    out = _add(_matmul_shared(w.astype(q.dtype), v) for w, v in zip(weights, values, strict=True))
    out = (out / total).astype(q.dtype)
    out = out.reshape(batch, groups, samples, tokens, -1, size).transpose(0, 2, 3, 1, 4, 5)
    return out.reshape(batch, samples, tokens, heads, size)


def _add(parts: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, parts)


def _logits(rows: Array, keys: Array, mask: Array, repeats: int) -> Float[Array, "B K M R S"]:
    # Scaled here, in float32: queries scaled by what is no power of two would be rounded once more.
    logits = _matmul_shared(rows, _heads_first(keys).swapaxes(-1, -2)) * rows.shape[-1] ** -0.5
    mask = mask if mask.shape[2] == 1 else jnp.repeat(mask, repeats, axis=2)
    return jnp.where(mask[:, None], logits, _MASKED)


def _heads_first(x: Float[Array, "*B S K h"]) -> Float[Array, "B K *M S h"]:
    return x.swapaxes(1, 2) if x.ndim == 4 else x.transpose(0, 3, 1, 2, 4)


def _matmul_shared(a: Float[Array, "B K M R c"], b: Array) -> Float[Array, "B K M R d"]:
    """a @ b in float32, where `b` may lack the M axis: then M becomes rows and `b` is never copied."""
    rows = a if b.ndim == a.ndim else a.reshape(*a.shape[:2], -1, a.shape[-1])
    product = jnp.matmul(rows, b, preferred_element_type=jnp.float32)
    return product.reshape(*a.shape[:-1], b.shape[-1])


def time_embedding(t: Float[Array, "*B U"], width: int) -> Float[Array, "*B U {width}"]:
    """Sine and cosine of t in [0, 1] at periods from 0.004 to 4."""
    frequency = 2 * np.pi / np.geomspace(4e-3, 4.0, width // 2)  # float64: the angles reach 1570 rad
    angle = t[..., None].astype(jnp.float32) * frequency.astype(np.float32)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def fold_patches(image: Float[Array, "B Y X C"], factor: int) -> Float[Array, "B Yf Xf F"]:
    """Non-overlapping factor x factor neighbourhoods as channels, row first: F = factor * factor * C."""
    b, y, x, c = image.shape
    split = image.reshape(b, y // factor, factor, x // factor, factor, c)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(b, y // factor, x // factor, factor * factor * c)


# Stacks: `depth` blocks of one kind as one module, whose parameters have a leading axis.


def stack(make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> Any:
    """`depth` modules that `make` builds, each from its own random numbers, as one."""
    return nnx.split_rngs(splits=depth)(nnx.vmap(make))(rngs)


def scan_blocks(
    blocks: nnx.Module, step: Callable[[Any, Array, Any], tuple[Array, Any]], x: Array, inputs: Any, *, remat: bool
) -> tuple[Array, Any]:
    """x through stacked `blocks`: step(block, x, its part of `inputs`) -> x and what is collected."""
    graph, weights = nnx.split(blocks)
    unroll = len(jax.tree.leaves(weights)[0]) <= 4  # XLA on a CPU then fuses across layers, drops what nobody reads

    def body(x: Array, layer: Any) -> tuple[Array, Any]:
        return step(nnx.merge(graph, layer[0]), x, layer[1])

    body = jax.checkpoint(body, prevent_cse=unroll) if remat else body  # a loop's body is recomputed anyway
    return jax.lax.scan(body, x, (weights, inputs), unroll=unroll)
