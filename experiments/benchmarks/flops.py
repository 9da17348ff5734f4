"""Arithmetic of one training sample and what devices can do: model-FLOPs utilisation without running a profiler.

A matrix product of [m, k] and [k, n] counts 2 m k n; norms, softmax and other elementwise work count nothing, and
neither do recomputed layers or adapters (under 2 % at ranks 16 and 32).
"""

from __future__ import annotations

from collections.abc import Collection

import jax

from dexhil.models.config import AttentionConfig, GemmaConfig, VLAConfig
from dexhil.training.partition import Params, parameter_group, path_name

# Dense bfloat16 products with float32 sums, from the vendors' data sheets, in 1e12 per second. Longest name first.
PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "B200": 2250.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
}


def peak_tflops(device_kind: str) -> float | None:
    """Of a device by the name that JAX gives it, None where the table has none."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in device_kind), None)


def forward_flops(config: VLAConfig, flow_samples: int = 1) -> dict[str, float]:
    """Per sample and part of the model, with every prompt at its full length."""
    prefix = len(config.cameras) * config.image_tokens + config.max_tokens
    suffix = config.chunk + (config.state_input == "token")
    expert = _layer(config.attention, config.expert, suffix, prefix + suffix)
    if config.variant == "pi05":
        rows = 1 + (config.state_input == "token")
        expert += 2 * 2 * rows * config.expert.width * 3 * config.expert.width
    return {
        "vision": len(config.cameras) * _vision(config),
        "language": config.attention.depth * _layer(config.attention, config.lm, prefix, prefix),
        "expert": flow_samples * config.attention.depth * expert,
    }


def _layer(shared: AttentionConfig, stream: GemmaConfig, queries: int, keys: int) -> float:
    heads = 2 * shared.num_heads + 2 * shared.num_kv_heads
    weights = stream.width * (heads * shared.head_dim + 3 * stream.mlp_dim)
    return 2.0 * queries * weights + 4.0 * queries * keys * shared.num_heads * shared.head_dim


def _vision(config: VLAConfig) -> float:
    vision, tokens, channels, side = config.vision, config.image_tokens, 3, config.image_size
    flops = 0.0
    for factor, width in vision.stem:
        side //= factor
        flops += 2.0 * side**2 * factor**2 * channels * width
        channels = width
    flops += 2.0 * tokens * vision.patch**2 * channels * vision.width
    weights = 4 * vision.width**2 + 2 * vision.width * vision.mlp_dim
    flops += vision.depth * (2.0 * tokens * weights + 4.0 * tokens**2 * vision.width)
    return flops + 2.0 * tokens * vision.width * config.lm.width


def training_flops(config: VLAConfig, params: Params, frozen: Collection[str], flow_samples: int = 1) -> float:
    """Per sample: forwards, backwards through every part with something trained in it or below, and the gradients.

    params: all of them, or their shapes.
    """
    weights, anything = set(), set()
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        group, name = parameter_group(path), path[-1].key
        if path_name(path) not in frozen:
            anything.add(group)
            if name in ("w", "gating_einsum", "linear") or (group == "vision" and name == "kernel"):
                weights.add(group)
    reached = {"expert"} | ({"language"} if anything & {"vision", "language"} else set()) | (anything & {"vision"})
    forward = forward_flops(config, flow_samples)
    return sum(flops * (1 + (part in reached) + (part in weights)) for part, flops in forward.items())
