"""Gemma as PaliGemma has it, and beside it the action expert: the same layers, which attend to the language model's.

Axes: as in `layers`, E expert width, F MLP width, L layers, r rank.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, lecun_normal, normal
from jaxtyping import Array, Float

from dexhil.models.config import AttentionConfig, GemmaConfig, VLAConfig
from dexhil.models.layers import RMSNorm, Source, attend, gated_residual, merge_heads, project, rope, stack

_EINSUMS = ("q_einsum", "kv_einsum", "attn_vec_einsum")
_PARTS = ("mlp", "pre_attention_norm", "pre_ffw_norm")


def low_rank(shape: tuple[int, ...], rank: int, rngs: nnx.Rngs) -> tuple[nnx.Param, nnx.Param]:
    """A [*, in, rank] and B [*, rank, out], zero at first, beside a weight [*, in, out] (LoRA, arXiv 2106.09685)."""
    a = normal(shape[-2] ** -0.5)(rngs.params(), (*shape[:-1], rank))
    return nnx.Param(a), nnx.Param(jnp.zeros((*shape[:-2], rank, shape[-1])))


class HeadEinsum(nnx.Module):
    """A weight [*, in, out] with a matrix per head, and at a rank above 0 its low-rank adapter: w + scale a b."""

    def __init__(self, shape: tuple[int, ...], init: Initializer, stream: GemmaConfig, rngs: nnx.Rngs) -> None:
        self.w = nnx.Param(init(rngs.params(), shape))
        self.rank, self.scale = stream.lora_rank, stream.lora_scale
        if self.rank:
            self.lora_a, self.lora_b = low_rank(shape, self.rank, rngs)

    def split_heads(self, x: Float[Array, "*B T D"], index: Any = ...) -> Float[Array, "*B T N h"]:
        """Into heads by the weight [N D h] at `index`."""
        y = project(x, self.w[index])
        if not self.rank:
            return y
        low = project(x, self.lora_a[index])
        return y + self.scale * jnp.einsum("...tnr,nrh->...tnh", low, self.lora_b[index].astype(x.dtype))

    def merge_heads(self, x: Float[Array, "*B T N h"]) -> Float[Array, "*B T D"]:
        """Out of heads by the weight [N h D]."""
        y = merge_heads(x, self.w[...])
        if not self.rank:
            return y
        low = jnp.einsum("...tnh,nhr->...tnr", x, self.lora_a[...].astype(x.dtype))
        return y + self.scale * merge_heads(low, self.lora_b[...])


class Attention(nnx.Module):
    """Grouped-query attention of one stream, over its own tokens and those that it is given."""

    def __init__(self, q_einsum: HeadEinsum, kv_einsum: HeadEinsum, attn_vec_einsum: HeadEinsum) -> None:
        self.q_einsum = q_einsum
        self.kv_einsum = kv_einsum
        self.attn_vec_einsum = attn_vec_einsum

    def __call__(
        self, x: Float[Array, "*B T D"], angles: tuple[Array, Array], mask: Array, past: tuple[Source, ...]
    ) -> tuple[Float[Array, "*B T D"], tuple[Array, Array]]:
        """The result, and the tokens' own keys and values. mask: of these, as of a `Source`."""
        q = rope(self.q_einsum.split_heads(x), angles)
        k, v = rope(self.kv_einsum.split_heads(x, 0), angles), self.kv_einsum.split_heads(x, 1)
        return self.attn_vec_einsum.merge_heads(attend(q, [*past, (k, v, mask)])), (k, v)


class GeGLU(nnx.Module):
    """Gemma's MLP: GELU (tanh) of one branch times the other."""

    def __init__(self, stream: GemmaConfig, rngs: nnx.Rngs) -> None:
        self.rank, self.scale = stream.lora_rank, stream.lora_scale
        shapes = {"gating_einsum": (2, stream.width, stream.mlp_dim), "linear": (stream.mlp_dim, stream.width)}
        for name, shape in shapes.items():
            init = lecun_normal(batch_axis=tuple(range(len(shape) - 2)))
            setattr(self, name, nnx.Param(init(rngs.params(), shape)))
            if self.rank:
                for suffix, leaf in zip("ab", low_rank(shape, self.rank, rngs), strict=True):
                    setattr(self, f"{name}_lora_{suffix}", leaf)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        gate, up = (self._multiply("gating_einsum", x, branch) for branch in range(2))
        return self._multiply("linear", jax.nn.gelu(gate, approximate=True) * up)

    def _multiply(self, name: str, x: Float[Array, "*B D"], index: Any = ...) -> Float[Array, "*B F"]:
        y = x @ getattr(self, name)[index].astype(x.dtype)
        if not self.rank:
            return y
        a, b = (getattr(self, f"{name}_lora_{suffix}")[index].astype(x.dtype) for suffix in "ab")
        return y + self.scale * ((x @ a) @ b)


class GemmaBlock(nnx.Module):
    """One layer of one stream: attention and MLP, each behind a norm."""

    def __init__(
        self, attn: Attention, mlp: GeGLU, pre_attention_norm: RMSNorm, pre_ffw_norm: RMSNorm
    ) -> None:  # made of parts, since `Gemma` holds those of both streams side by side
        self.attn = attn
        self.mlp = mlp
        self.pre_attention_norm = pre_attention_norm
        self.pre_ffw_norm = pre_ffw_norm

    def __call__(
        self,
        x: Float[Array, "*B T D"],
        angles: tuple[Array, Array],
        mask: Array,
        past: tuple[Source, ...] = (),
        cond: Float[Array, "*B U D"] | None = None,
    ) -> tuple[Float[Array, "*B T D"], tuple[Array, Array]]:
        """The tokens after this layer, and their keys and values. mask, past: which tokens, and others', it sees."""
        y, gate = self.pre_attention_norm(x, cond)
        y, kv = self.attn(y, angles, mask, past)
        x = gated_residual(x, y, gate)
        y, gate = self.pre_ffw_norm(x, cond)
        return gated_residual(x, self.mlp(y), gate), kv


def _make_block(shared: AttentionConfig, stream: GemmaConfig, dtype: str, adaptive: bool, rngs: nnx.Rngs) -> GemmaBlock:
    heads, groups, size, width = shared.num_heads, shared.num_kv_heads, shared.head_dim, stream.width
    attn = Attention(
        HeadEinsum((heads, width, size), lecun_normal(batch_axis=0), stream, rngs),
        HeadEinsum((2, groups, width, size), lecun_normal(batch_axis=(0, 1)), stream, rngs),
        HeadEinsum((heads, size, width), lecun_normal(in_axis=(0, 1)), stream, rngs),
    )
    norms = (RMSNorm(width, dtype, adaptive, rngs) for _ in range(2))
    return GemmaBlock(attn, GeGLU(stream, rngs), *norms)


class Gemma(nnx.Module):
    """The embedding, and the stacked layers of the language model and of the expert, whose names end in `_1`."""

    def __init__(self, config: VLAConfig, rngs: nnx.Rngs) -> None:
        table = normal(config.lm.width**-0.5)(rngs.params(), (config.vocab_size, config.lm.width))
        self.embedder = nnx.Dict(input_embedding=nnx.Param(table))
        attn, layers = {}, {}
        for suffix, stream, adaptive in (("", config.lm, False), ("_1", config.expert, config.variant == "pi05")):
            make = functools.partial(_make_block, config.attention, stream, config.dtype, adaptive)
            blocks = stack(make, config.attention.depth, rngs)
            attn |= {f"{name}{suffix}": getattr(blocks.attn, name) for name in _EINSUMS}
            layers |= {f"{name}{suffix}": getattr(blocks, name) for name in _PARTS}
        self.layers: Any = nnx.Dict(attn=nnx.Dict(**attn), **layers)
        self.final_norm = RMSNorm(config.lm.width, config.dtype, False, rngs)
        self.final_norm_1 = RMSNorm(config.expert.width, config.dtype, config.variant == "pi05", rngs)

    def blocks(self, suffix: str = "") -> GemmaBlock:
        """The stacked layers of the language model ("") or of the expert ("_1")."""
        attn = Attention(*(self.layers["attn"][f"{name}{suffix}"] for name in _EINSUMS))
        return GemmaBlock(attn, *(self.layers[f"{name}{suffix}"] for name in _PARTS))

    def embed(self, tokens: Array) -> Float[Array, "*B D"]:
        """Tokens in the language model's width, as Gemma scales them."""
        table = self.embedder["input_embedding"]
        return table[tokens] * table.shape[-1] ** 0.5
