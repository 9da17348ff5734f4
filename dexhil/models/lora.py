"""Low-rank adapters as trees: leaves `lora_a`, `lora_b` beside the weight they adapt, which `gemma` applies layer by
layer; here they are drawn anew, and fused into the weights to serve.

Every weight [*, in, out] stands for w + scale a b, with a [*, in, r] and b [*, r, out]; names and shapes are openpi's.
Source: LoRA, arXiv 2106.09685.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dexhil.models.config import VLAConfig
from dexhil.models.vla import Params, init_params

_SUFFIXES = ("lora_a", "lora_b")


def is_adapter(name: str) -> bool:
    """Whether the last part of a leaf's path names an adapter."""
    return name.endswith(_SUFFIXES)


def fuse_adapters(params: Params, config: VLAConfig) -> Params:
    """The plain tree that acts as `params` with adapters does: w + scale a b, summed in float32, in the dtype of w."""
    return _fuse(params, config, config.lm.lora_scale)


def _fuse(tree: Params, config: VLAConfig, scale: float) -> Params:
    fused = {}
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            fused[name] = _fuse(leaf, config, config.expert.lora_scale if name.endswith("_1") else scale)
        elif not is_adapter(name):
            prefix = "" if name == "w" else f"{name}_"
            fused[name] = _with_adapter(leaf, tree.get(f"{prefix}lora_a"), tree.get(f"{prefix}lora_b"), scale)
    return fused


def _with_adapter(weight: Array, a: Array | None, b: Array | None, scale: float) -> Array:
    if a is None or b is None:
        return weight
    product = a.astype(jnp.float32) @ b.astype(jnp.float32)
    return (weight.astype(jnp.float32) + scale * product).astype(weight.dtype)


@functools.partial(jax.jit, static_argnames=("config",))
def fresh_adapters(config: VLAConfig, key: jax.Array) -> Params:
    """The adapters alone, as `init_params` draws them: b is zero."""
    return _adapters_of(init_params(config, key))


def _adapters_of(tree: Params) -> Params:
    adapters = {}
    for name, leaf in tree.items():
        part = _adapters_of(leaf) if isinstance(leaf, dict) else leaf
        if is_adapter(name) or (isinstance(leaf, dict) and part):
            adapters[name] = part
    return adapters


def readapt(params: Params, config: VLAConfig, wanted: VLAConfig, key: jax.Array) -> Params:
    """`params` of a model `config` with the adapters of `wanted`: kept where they agree, else fused and begun anew."""
    if lora_of(config) == lora_of(wanted):
        return params
    return merge_trees(fuse_adapters(params, config), fresh_adapters(wanted, key))


def lora_of(config: VLAConfig) -> tuple[tuple[int, float], ...]:
    """Rank and scale of both streams' adapters."""
    return tuple((stream.lora_rank, stream.lora_scale) for stream in (config.lm, config.expert))


def merge_trees(left: Params, right: Params) -> Params:
    """Union of two nested dicts without a common leaf."""
    both = {name: merge_trees(left[name], right[name]) for name in left.keys() & right.keys()}
    return {**left, **right, **both}
