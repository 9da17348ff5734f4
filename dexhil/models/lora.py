"""Low-rank adapters: leaves `lora_a`, `lora_b` beside the weight they adapt, applied layer by layer, merged to serve.

Every weight [*, in, out] stands for w + a b, with a [*, in, r] and b [*, r, out]; names and shapes are openpi's. A tree
without adapters costs nothing here. Source: LoRA, arXiv 2106.09685.

Axes: as in `layers`, r rank, F MLP width.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dexhil.models import layers
from dexhil.models.config import VLAConfig
from dexhil.models.params import Params, init_params

_SUFFIXES = ("lora_a", "lora_b")


def is_adapter(name: str) -> bool:
    """Whether the last part of a leaf's path names an adapter."""
    return name.endswith(_SUFFIXES)


def project(params: Params, x: Float[Array, "*B T D"]) -> Float[Array, "*B T N h"]:
    """`layers.project` by `params` {"w", with adapters also "lora_a", "lora_b"}."""
    y = layers.project(x, params["w"])
    if "lora_a" not in params:
        return y
    low = layers.project(x, params["lora_a"])
    return y + jnp.einsum("...tnr,nrh->...tnh", low, params["lora_b"].astype(x.dtype))


def merge_heads(params: Params, x: Float[Array, "*B T N h"]) -> Float[Array, "*B T D"]:
    """`layers.merge_heads` by `params` {"w", with adapters also "lora_a", "lora_b"}."""
    y = layers.merge_heads(x, params["w"])
    if "lora_a" not in params:
        return y
    low = jnp.einsum("...tnh,nhr->...tnr", x, params["lora_a"].astype(x.dtype))
    return y + layers.merge_heads(low, params["lora_b"])


def geglu(params: Params, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Gemma's MLP: GELU (tanh) of one branch times the other."""
    gating = {name: leaf for name, leaf in params.items() if name.startswith("gating_einsum")}
    gate, up = (_matmul({name: leaf[i] for name, leaf in gating.items()}, "gating_einsum", x) for i in range(2))
    return _matmul(params, "linear", jax.nn.gelu(gate, approximate=True) * up)


def _matmul(params: Params, name: str, x: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
    y = x @ params[name].astype(x.dtype)
    if f"{name}_lora_a" not in params:
        return y
    a, b = (params[f"{name}_{suffix}"].astype(x.dtype) for suffix in _SUFFIXES)
    return y + (x @ a) @ b


def scale_adapters(params: Params, scale: float) -> Params:
    """The tree with every `lora_b` times `scale`, so that what follows needs not know it."""
    if scale == 1.0:
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: scale * leaf if path[-1].key.endswith("lora_b") else leaf, params
    )


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
