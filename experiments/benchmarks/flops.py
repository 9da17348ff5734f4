"""Arithmetic of one training sample and what devices can do: model-FLOPs utilisation without running a profiler.

A matrix product of [m, k] and [k, n] counts 2 m k n; norms, softmax and other elementwise work count nothing, and
neither do recomputed layers or adapters (under 2 % at ranks 16 and 32).
"""

from collections.abc import Collection

import jax

from dexhil.models.config import AttentionConfig, GemmaConfig, VLAConfig
from dexhil.models.trees import Params
from dexhil.training.partition import parameter_group, path_name

# Dense bfloat16 products with float32 sums, in 1e12 per second, and memory in 1e12 bytes per second, from the vendors'
# data sheets. Longest name first.
PEAKS = {
    "H100 PCIe": (756.0, 2.0),
    "H100 NVL": (835.0, 3.9),
    "H100": (989.0, 3.35),
    "H200": (989.0, 4.8),
    "B200": (2250.0, 8.0),
    "A100": (312.0, 2.04),
    "L40S": (362.0, 0.86),
    "L4": (121.0, 0.3),
    "RTX 4090": (165.0, 1.01),
}


def peaks(device_kind: str) -> tuple[float | None, float | None]:
    """TFLOP/s and TB/s of a device by the name that JAX gives it, None where the table has none."""
    return next((peak for name, peak in PEAKS.items() if name in device_kind), (None, None))


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
    """Per sample: forwards, backwards through every part with something trained in it or below, and the gradients."""
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


def inference_work(config: VLAConfig, params: Params, steps: int, *, guided: bool = False) -> dict[str, float]:
    """TFLOP of one chunk at batch 1, and TB of weights, keys and values to read; `guided` runs the expert both ways."""
    passes = steps * (2 if guided else 1)
    flops = forward_flops(config)
    read: dict[str, float] = dict.fromkeys(flops, 0.0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key != "input_embedding":  # a look-up
            read[parameter_group(path)] += leaf.size * leaf.dtype.itemsize
    shared, prefix = config.attention, len(config.cameras) * config.image_tokens + config.max_tokens
    kv = 2 * shared.depth * prefix * shared.num_kv_heads * shared.head_dim * jax.numpy.dtype(config.dtype).itemsize
    return {
        "tflop": (flops["vision"] + flops["language"] + passes * flops["expert"]) / 1e12,
        "tbyte": (read["vision"] + read["language"] + passes * (read["expert"] + kv)) / 1e12,
    }


def utilisation(work: dict[str, float], seconds: float, device_kind: str) -> dict[str, float]:
    """`inference_work`, and its fractions of what the device can do, where that is known."""
    tflops, tbytes = peaks(device_kind)
    if tflops is None or tbytes is None:
        return work
    bound = max(work["tflop"] / tflops, work["tbyte"] / tbytes)
    fractions = {"mfu": work["tflop"] / seconds / tflops, "bandwidth": work["tbyte"] / seconds / tbytes}
    return work | fractions | {"bound_ms": 1e3 * bound}
