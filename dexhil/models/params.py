"""The parameter tree, declared once in Flax NNX and split once into a pure tree.

Paths and shapes are those of openpi and big_vision (layers stacked on a leading axis for `jax.lax.scan`; the expert's
keys carry `_1`), so that public weights load almost as they are.

Axes: L layers, D width, E expert width, F MLP width, N query heads, K key-value heads, h head size, C input channels.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import Initializer, lecun_normal, normal, ones, zeros

from dexhil.models.config import AttentionConfig, GemmaConfig, VisionConfig, VLAConfig

Params = dict[str, Any]


class VLA(nnx.Module):
    """Holds every parameter of a policy; `vla.py` computes, on the pure tree that `init_params` returns."""

    def __init__(self, config: VLAConfig, rngs: nnx.Rngs) -> None:
        expert = config.expert.width
        self.PaliGemma = nnx.Dict(img=_vision(config, rngs), llm=_llm(config, rngs))
        self.action_in_proj = _dense(rngs, (config.padded_action_dim, expert))
        self.action_out_proj = _dense(rngs, (expert, config.padded_action_dim))
        if config.state_input == "token":
            self.state_proj = _dense(rngs, (config.padded_state_dim, expert))
        if config.variant == "pi05":
            self.time_mlp_in = _dense(rngs, (expert, expert))
            self.time_mlp_out = _dense(rngs, (expert, expert))
        else:
            self.action_time_mlp_in = _dense(rngs, (2 * expert, expert))
            self.action_time_mlp_out = _dense(rngs, (expert, expert))


@functools.partial(jax.jit, static_argnames=("config",))
def init_params(config: VLAConfig, key: jax.Array) -> Params:
    """Fresh parameters in `config.param_dtype` as a nested dict of arrays, keys as in openpi's checkpoints."""
    params = nnx.to_pure_dict(nnx.state(VLA(config, nnx.Rngs(key)), nnx.Param))
    return jax.tree.map(lambda leaf: leaf.astype(config.param_dtype), params)


_STACKS = ("/layers/", "/encoderblock/", "/embedder/")


def hold_as_bits(path: str, leaf: Any) -> Any:
    """A bfloat16 stack, or the embedding, as uint16 of the same bits, which the model reads; any other leaf as it is.

    For CPUs and frozen parameters: XLA computes bfloat16 there in float32 and would convert every stack as a whole,
    twice the model's memory again; of bits it converts one layer at a time. Nothing can be trained through bits.
    """
    stacked = any(name in path for name in _STACKS) and leaf.dtype == jnp.bfloat16
    return np.asarray(leaf).view(np.uint16) if stacked else leaf


def from_bits(params: Any) -> Any:
    """The tree with what `hold_as_bits` holds as bits in bfloat16 again."""

    def read(leaf: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(leaf, jnp.bfloat16) if leaf.dtype == jnp.uint16 else leaf

    return jax.tree.map(read, params)


def count_params(config: VLAConfig) -> int:
    """Number of parameters, without allocating them."""
    shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _param(rngs: nnx.Rngs, init: Initializer, shape: tuple[int, ...]) -> nnx.Param:
    return nnx.Param(init(rngs.params(), shape))


def _dense(rngs: nnx.Rngs, shape: tuple[int, int], layers: tuple[int, ...] = (), init: Initializer | None = None):
    init = init or lecun_normal(batch_axis=tuple(range(len(layers))))
    return nnx.Dict(kernel=_param(rngs, init, layers + shape), bias=_param(rngs, zeros, layers + shape[1:]))


def _layer_norm(rngs: nnx.Rngs, shape: tuple[int, ...]) -> nnx.Dict:
    return nnx.Dict(scale=_param(rngs, ones, shape), bias=_param(rngs, zeros, shape))


def _vision(config: VLAConfig, rngs: nnx.Rngs) -> nnx.Dict:
    vision, tower = config.vision, {}
    channels = 3
    for index, (factor, width) in enumerate(vision.stem):
        tower[f"stem_{index}"] = _dense(rngs, (factor**2 * channels, width))
        channels = width
    patch_shape = (vision.patch, vision.patch, channels, vision.width)
    tower["embedding"] = nnx.Dict(
        kernel=_param(rngs, lecun_normal(in_axis=(0, 1, 2)), patch_shape), bias=_param(rngs, zeros, (vision.width,))
    )
    tower["pos_embedding"] = _param(rngs, normal(vision.width**-0.5), (1, config.image_tokens, vision.width))
    blocks = _vision_blocks(vision, rngs)
    tower["Transformer"] = nnx.Dict(encoderblock=blocks, encoder_norm=_layer_norm(rngs, (vision.width,)))
    tower["head"] = _dense(rngs, (vision.width, config.lm.width))
    if config.camera_embedding:
        tower["camera_embedding"] = _param(rngs, normal(0.5), (len(config.cameras), config.lm.width))
    return nnx.Dict(**tower)


def _vision_blocks(vision: VisionConfig, rngs: nnx.Rngs) -> nnx.Dict:
    layers, width, heads = vision.depth, vision.width, vision.num_heads
    size = width // heads

    def project() -> nnx.Dict:  # kernel [L, D, N, h]
        init = lecun_normal(in_axis=1, out_axis=(2, 3), batch_axis=0)
        kernel = _param(rngs, init, (layers, width, heads, size))
        return nnx.Dict(kernel=kernel, bias=_param(rngs, zeros, (layers, heads, size)))

    out_init = lecun_normal(in_axis=(1, 2), out_axis=3, batch_axis=0)
    out = nnx.Dict(
        kernel=_param(rngs, out_init, (layers, heads, size, width)), bias=_param(rngs, zeros, (layers, width))
    )
    return nnx.Dict(
        LayerNorm_0=_layer_norm(rngs, (layers, width)),
        LayerNorm_1=_layer_norm(rngs, (layers, width)),
        MultiHeadDotProductAttention_0=nnx.Dict(query=project(), key=project(), value=project(), out=out),
        MlpBlock_0=nnx.Dict(
            Dense_0=_dense(rngs, (width, vision.mlp_dim), (layers,)),
            Dense_1=_dense(rngs, (vision.mlp_dim, width), (layers,)),
        ),
    )


def _llm(config: VLAConfig, rngs: nnx.Rngs) -> nnx.Dict:
    depth, adaptive = config.attention.depth, config.variant == "pi05"
    streams = [("", config.lm, False), ("_1", config.expert, adaptive)]
    attn, layers, finals = {}, {}, {}
    for suffix, stream, modulated in streams:
        attn |= _attention(config.attention, stream, suffix, rngs)
        layers[f"mlp{suffix}"] = _mlp(stream, depth, rngs)
        for norm in ("pre_attention_norm", "pre_ffw_norm"):
            layers[f"{norm}{suffix}"] = _rms_norm(rngs, stream.width, (depth,), modulated)
        finals[f"final_norm{suffix}"] = _rms_norm(rngs, stream.width, (), modulated)
    table = _param(rngs, normal(config.lm.width**-0.5), (config.vocab_size, config.lm.width))
    return nnx.Dict(
        embedder=nnx.Dict(input_embedding=table), layers=nnx.Dict(attn=nnx.Dict(**attn), **layers), **finals
    )


def _attention(shared: AttentionConfig, stream: GemmaConfig, suffix: str, rngs: nnx.Rngs) -> dict[str, nnx.Dict]:
    depth, heads, groups, size = shared.depth, shared.num_heads, shared.num_kv_heads, shared.head_dim
    q_init = lecun_normal(in_axis=2, out_axis=3, batch_axis=(0, 1))
    kv_init = lecun_normal(in_axis=3, out_axis=4, batch_axis=(0, 1, 2))
    out_init = lecun_normal(in_axis=(1, 2), out_axis=3, batch_axis=0)
    weights = {
        "q_einsum": (q_init, (depth, heads, stream.width, size)),
        "kv_einsum": (kv_init, (depth, 2, groups, stream.width, size)),
        "attn_vec_einsum": (out_init, (depth, heads, size, stream.width)),
    }
    return {
        name + suffix: nnx.Dict(w=_param(rngs, init, shape), **_adapter(rngs, "", shape, stream.lora_rank))
        for name, (init, shape) in weights.items()
    }


def _mlp(stream: GemmaConfig, depth: int, rngs: nnx.Rngs) -> nnx.Dict:
    gating_init = lecun_normal(in_axis=2, out_axis=3, batch_axis=(0, 1))
    gating, linear = (depth, 2, stream.width, stream.mlp_dim), (depth, stream.mlp_dim, stream.width)
    return nnx.Dict(
        gating_einsum=_param(rngs, gating_init, gating),
        linear=_param(rngs, lecun_normal(batch_axis=0), linear),
        **_adapter(rngs, "gating_einsum_", gating, stream.lora_rank),
        **_adapter(rngs, "linear_", linear, stream.lora_rank),
    )


def _adapter(rngs: nnx.Rngs, prefix: str, shape: tuple[int, ...], rank: int) -> dict[str, nnx.Param]:
    """A [*, in, rank] and B [*, rank, out] beside a weight [*, in, out]; none at rank 0. B is zero: no change at first.

    Source: LoRA, arXiv 2106.09685.
    """
    if not rank:
        return {}
    a, b = (*shape[:-1], rank), (*shape[:-2], rank, shape[-1])
    return {
        f"{prefix}lora_a": _param(rngs, normal(shape[-2] ** -0.5), a),
        f"{prefix}lora_b": _param(rngs, zeros, b),
    }


def _rms_norm(rngs: nnx.Rngs, width: int, layers: tuple[int, ...], modulated: bool) -> nnx.Dict:
    """Gemma's scale, or the zero-initialised dense layer from the time to scale, shift and gate."""
    if modulated:
        return nnx.Dict(Dense_0=_dense(rngs, (width, 3 * width), layers, init=zeros))
    return nnx.Dict(scale=_param(rngs, zeros, (*layers, width)))
