"""Low-rank adapters as trees: leaves `lora_a`, `lora_b` beside the weight they adapt, drawn anew, or fused to serve.

Every weight [*, in, out] stands for w + scale a b, with a [*, in, r] and b [*, r, out]; names and shapes are openpi's.
Source: LoRA, arXiv 2106.09685.
"""

import functools

import jax
import jax.numpy as jnp

from dexhil.models.config import VLAConfig
from dexhil.models.trees import Params, flatten, merge_trees, unflatten
from dexhil.models.vla import init_params


def is_adapter(name: str) -> bool:
    """Whether the last part of a leaf's path names an adapter."""
    return name.endswith(("lora_a", "lora_b"))


def adapter_path(weight: str, factor: str = "a") -> str:
    """Where the adapter of the weight at this path is, if it has one. factor: "a" or "b"."""
    return f"{weight[:-1]}lora_{factor}" if weight.endswith("/w") else f"{weight}_lora_{factor}"


def fuse_adapters(params: Params, config: VLAConfig) -> Params:
    """The plain tree that acts as `params` with adapters does: w + scale a b, summed in float32, in the dtype of w."""
    leaves = flatten(params)
    fused = {}
    for path, weight in leaves.items():
        if adapter_path(path) in leaves:
            a, b = (leaves[adapter_path(path, factor)].astype(jnp.float32) for factor in "ab")
            scale = (config.expert if "_1/" in f"{path}/" else config.lm).lora_scale
            weight = (weight.astype(jnp.float32) + scale * (a @ b)).astype(weight.dtype)
        if not is_adapter(path):
            fused[path] = weight
    return unflatten(fused)


@functools.partial(jax.jit, static_argnames=("config",))
def fresh_adapters(config: VLAConfig, key: jax.Array) -> Params:
    """The adapters alone, as `init_params` draws them: b is zero."""
    leaves = flatten(init_params(config, key))
    return unflatten({path: leaf for path, leaf in leaves.items() if is_adapter(path)})


def readapt(params: Params, config: VLAConfig, wanted: VLAConfig, key: jax.Array) -> Params:
    """`params` of a model `config` with the adapters of `wanted`: kept where they agree, else fused and begun anew."""
    before, after = (
        [(stream.lora_rank, stream.lora_scale) for stream in (model.lm, model.expert)] for model in (config, wanted)
    )
    return params if before == after else merge_trees(fuse_adapters(params, config), fresh_adapters(wanted, key))
