"""SigLIP-style vision tower: learned position embedding, bidirectional pre-norm transformer, linear head to the LM.

Axes: B batch, P tokens of one image, N heads, h head size, D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dexhil.models.config import VLAConfig
from dexhil.models.layers import attend, dense, fold_patches, layer_norm, merge_heads, project
from dexhil.models.params import Params, from_bits


def encode_images(params: Params, config: VLAConfig, images: Float[Array, "B Y X 3"]) -> Float[Array, "B P D"]:
    """Tokens in the language model's width. images: in [-1, 1]."""
    x = _embed(params, config, images.astype(config.dtype))
    flat = unroll(config.vision.depth)

    def block(x: Array, layer: Params) -> tuple[Array, None]:
        return _block(from_bits(layer), x, config.vision.num_heads), None

    block = jax.checkpoint(block, prevent_cse=flat) if config.remat else block
    x, _ = jax.lax.scan(block, x, params["Transformer"]["encoderblock"], unroll=flat)
    return dense(params["head"], layer_norm(params["Transformer"]["encoder_norm"], x))


def unroll(depth: int) -> bool:
    """Small stacks run unrolled: XLA on a CPU then fuses across layers and drops what nobody reads."""
    return depth <= 4


def _embed(params: Params, config: VLAConfig, x: Float[Array, "B Y X 3"]) -> Float[Array, "B P D"]:
    for index, (factor, _) in enumerate(config.vision.stem):
        x = jax.nn.gelu(dense(params[f"stem_{index}"], fold_patches(x, factor)), approximate=True)
    patches = fold_patches(x, config.vision.patch)
    kernel, bias = params["embedding"]["kernel"], params["embedding"]["bias"]
    flat = {"kernel": kernel.reshape(-1, kernel.shape[-1]), "bias": bias}
    tokens = dense(flat, patches.reshape(len(x), -1, patches.shape[-1]))
    return tokens + params["pos_embedding"].astype(x.dtype)


def _block(params: Params, x: Float[Array, "B P D"], num_heads: int) -> Float[Array, "B P D"]:
    attention = params["MultiHeadDotProductAttention_0"]
    y = layer_norm(params["LayerNorm_0"], x)
    q, k, v = (_project(attention[name], y) for name in ("query", "key", "value"))
    everywhere = jnp.ones((1, 1, 1, 1), bool)
    y = attend(q[:, None], [(k, v, everywhere)])[:, 0]
    x = x + merge_heads(y, attention["out"]["kernel"]) + attention["out"]["bias"].astype(x.dtype)
    y = layer_norm(params["LayerNorm_1"], x)
    hidden = jax.nn.gelu(dense(params["MlpBlock_0"]["Dense_0"], y), approximate=True)
    return x + dense(params["MlpBlock_0"]["Dense_1"], hidden)


def _project(params: Params, x: Float[Array, "B P D"]) -> Float[Array, "B P N h"]:
    return project(x, params["kernel"].swapaxes(0, 1)) + params["bias"].astype(x.dtype)
