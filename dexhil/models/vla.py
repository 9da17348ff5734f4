"""The policy: a vision-language prefix, an action expert that attends to its layers, and flow matching.

Two passes everywhere: `encode_prefix` runs once per observation and leaves keys and values, `denoise` runs against
them. All functions are pure; `params` is the tree of `init_params`. Flow convention (DexHiL eq. 11):
x_t = (1 - t) x_0 + t a, so t = 1 is data, and the velocity is a - x_0.

Axes: B batch, M flow samples of one observation, V cameras, P tokens of an image, S prefix tokens, T suffix tokens,
L layers, N query heads, K key-value heads, h head size, D width, E expert width, H chunk, A action, Q state.
`inputs`: {"images": {camera: [B Y X 3] in [-1, 1]}, "tokens": [B T], "token_mask": [B T], "state": [B Q]} and, to
train, {"actions": [B H A]}, and "delay" [B] where the first actions are given; state and actions normalised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dexhil.models.config import VLAConfig
from dexhil.models.layers import attend, dense, gated_residual, rms_norm, rope, rotation, time_embedding
from dexhil.models.lora import geglu, merge_heads, project, scale_adapters
from dexhil.models.params import Params, from_bits, init_params
from dexhil.models.vision import encode_images, unroll

__all__ = ["KV", "denoise", "encode_prefix", "flow_errors", "flow_loss", "init_params"]

KV = tuple[Float[Array, "L B S K h"], Float[Array, "L B S K h"]]
Inputs = Mapping[str, Any]


# The prefix: images and instruction, which see each other in both directions.


def encode_prefix(
    params: Params,
    config: VLAConfig,
    images: Mapping[str, Float[Array, "B Y X 3"]],
    tokens: Int[Array, "B T"],
    token_mask: Bool[Array, "B T"],
) -> tuple[KV, Bool[Array, "B S"]]:
    """Keys and values of every layer of the language model, and which prefix tokens are real."""
    _, kv, mask = run_prefix(params, config, images, tokens, token_mask)
    return kv, mask


def run_prefix(
    params: Params,
    config: VLAConfig,
    images: Mapping[str, Float[Array, "B Y X 3"]],
    tokens: Int[Array, "B T"],
    token_mask: Bool[Array, "B T"],
) -> tuple[Float[Array, "B S D"], KV, Bool[Array, "B S"]]:
    """What leaves the last layer, before the final norm (it would serve a text head), and `encode_prefix`'s results."""
    x, mask = _embed_prefix(params["PaliGemma"], config, images, tokens, token_mask)
    turn = rotation(jnp.cumsum(mask, axis=1) - 1, config.attention.head_dim)

    def layer(x: Array, weights: Params) -> tuple[Array, tuple[Array, Array]]:
        return _prefix_layer(weights, x, mask, turn)

    x, kv = _scan_layers(layer, x, _stream(params, config), config)
    return x, kv, mask


def _embed_prefix(
    params: Params, config: VLAConfig, images: Mapping[str, Array], tokens: Array, token_mask: Array
) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
    _check_cameras(config, images)
    views = jnp.stack([images[camera] for camera in config.cameras], axis=1)  # [B V Y X 3]
    batch, cameras = views.shape[:2]
    image_tokens = encode_images(params["img"], config, views.reshape(batch * cameras, *views.shape[2:]))
    image_tokens = image_tokens.reshape(batch, cameras, -1, config.lm.width)
    if config.camera_embedding:
        image_tokens += params["img"]["camera_embedding"][:, None].astype(image_tokens.dtype)
    image_tokens = image_tokens.reshape(batch, -1, config.lm.width)
    text = from_bits(params["llm"]["embedder"]["input_embedding"][tokens])
    text = text.astype(config.dtype) * config.lm.width**0.5
    mask = jnp.concatenate([jnp.ones(image_tokens.shape[:2], bool), token_mask], axis=1)
    return jnp.concatenate([image_tokens, text], axis=1), mask


def _check_cameras(config: VLAConfig, images: Mapping[str, Array]) -> None:
    side = config.image_size
    for camera in config.cameras:
        if camera not in images:
            raise ValueError(f"camera {camera!r} is missing; expected {list(config.cameras)}, got {sorted(images)}")
        if images[camera].shape[1:] != (side, side, 3):
            shape = list(images[camera].shape)
            raise ValueError(f"image of camera {camera!r}: expected [B, {side}, {side}, 3], got {shape}; resize it")


def _prefix_layer(
    layer: Params, x: Float[Array, "B S D"], mask: Bool[Array, "B S"], turn: tuple[Array, Array]
) -> tuple[Float[Array, "B S D"], tuple[Array, Array]]:
    y, _ = rms_norm(layer["pre_attention_norm"], x)
    q, k, v = _qkv(layer["attn"], y, turn)
    y = attend(q[:, None], [(k, v, mask[:, None, None])])[:, 0]
    x = x + merge_heads(layer["attn"]["attn_vec_einsum"], y)
    y, _ = rms_norm(layer["pre_ffw_norm"], x)
    return x + geglu(layer["mlp"], y), (k, v)


# The suffix: state token and noisy actions, seen by nobody in the prefix.


def denoise(
    params: Params,
    config: VLAConfig,
    kv: KV,
    prefix_mask: Bool[Array, "B S"],
    x_t: Float[Array, "B H A"],
    t: Float[Array, " B"] | Float[Array, "B H"],
    state: Float[Array, "B Q"],
) -> Float[Array, "B H A"]:
    """Velocity a - x_0 at x_t. t in [0, 1] per sample, or per action; A and Q may be real or padded widths."""
    t = t[:, None] if t.ndim == 1 else t
    v = _denoise(params, config, kv, prefix_mask, _pad(x_t, config.padded_action_dim)[:, None], t[:, None], state)
    return v[:, 0, :, : x_t.shape[-1]]


def _denoise(
    params: Params,
    config: VLAConfig,
    kv: KV,
    prefix_mask: Bool[Array, "B S"],
    x_t: Float[Array, "B M H A"],
    t: Float[Array, "B M #H"],
    state: Float[Array, "B Q"],
) -> Float[Array, "B M H A"]:
    x, cond = _embed_suffix(params, config, x_t, t, state)
    own_mask = suffix_mask(config)[None, None]
    turn = rotation(prefix_mask.sum(axis=1)[:, None, None] + jnp.arange(x.shape[2]), config.attention.head_dim)

    def layer(x: Array, weights_kv: tuple[Params, tuple[Array, Array]]) -> tuple[Array, None]:
        weights, (k, v) = weights_kv
        return _suffix_layer(weights, x, (k, v, prefix_mask[:, None, None]), own_mask, turn, cond), None

    x, _ = _scan_layers(layer, x, (_stream(params, config, "_1"), kv), config)
    x, _ = rms_norm(params["PaliGemma"]["llm"]["final_norm_1"], x, cond)
    return dense(params["action_out_proj"], x[:, :, -config.chunk :]).astype(jnp.float32)


def _embed_suffix(
    params: Params, config: VLAConfig, x_t: Array, t: Array, state: Array
) -> tuple[Float[Array, "B M T E"], Float[Array, "B M U E"] | None]:
    """Tokens of the expert and, for pi0.5, the time as a condition; the state token is data, hence at time 1."""
    batch, samples, chunk = x_t.shape[:3]
    x = dense(params["action_in_proj"], x_t.astype(config.dtype))
    if config.variant == "pi05" and config.state_input == "token":
        t = jnp.concatenate([jnp.ones_like(t[..., :1]), t], axis=-1)
    # Not folded into the first time layer, though sin and cos of w (1 - t) are a rotation of those of w t: at width
    # 1024 both err by 6e-6 rms in float32, but in bfloat16 rotated weights by 1.5e-3 against 0.9e-3.
    time = time_embedding(1 - t if config.reversed_time else t, config.expert.width).astype(config.dtype)
    cond = None
    if config.variant == "pi05":
        cond = jax.nn.swish(dense(params["time_mlp_out"], jax.nn.swish(dense(params["time_mlp_in"], time))))
    else:
        time = jnp.broadcast_to(time, (batch, samples, chunk, time.shape[-1]))
        x = jax.nn.swish(dense(params["action_time_mlp_in"], jnp.concatenate([x, time], axis=-1)))
        x = dense(params["action_time_mlp_out"], x)
    if config.state_input == "token":
        token = dense(params["state_proj"], _pad(state, config.padded_state_dim).astype(config.dtype))
        token = jnp.broadcast_to(token[:, None, None], (batch, samples, 1, token.shape[-1]))
        x = jnp.concatenate([token, x], axis=2)
    return x, cond


def suffix_mask(config: VLAConfig) -> Bool[Array, "T T"]:
    """Block-causal: a token sees its own block and earlier ones; the state is one block, the actions another."""
    starts = ([1] if config.state_input == "token" else []) + [1] + [0] * (config.chunk - 1)
    block = jnp.cumsum(jnp.array(starts))
    return block[None, :] <= block[:, None]


def _suffix_layer(
    layer: Params,
    x: Float[Array, "B M T E"],
    prefix: tuple[Array, Array, Array],
    own_mask: Bool[Array, "1 1 T T"],
    turn: tuple[Array, Array],
    cond: Float[Array, "B M U E"] | None,
) -> Float[Array, "B M T E"]:
    y, gate = rms_norm(layer["pre_attention_norm"], x, cond)
    q, k, v = _qkv(layer["attn"], y, turn)
    y = attend(q, [prefix, (k, v, own_mask)])
    y = merge_heads(layer["attn"]["attn_vec_einsum"], y)
    x = gated_residual(x, y, gate)
    y, gate = rms_norm(layer["pre_ffw_norm"], x, cond)
    return gated_residual(x, geglu(layer["mlp"], y), gate)


# What both streams share.


def _stream(params: Params, config: VLAConfig, suffix: str = "") -> Params:
    """The stacked layers of the language model ("") or of the expert ("_1"), under the same names."""
    layers = params["PaliGemma"]["llm"]["layers"]
    attn = {name: layers["attn"][name + suffix] for name in ("q_einsum", "kv_einsum", "attn_vec_einsum")}
    rest = {name: layers[name + suffix] for name in ("mlp", "pre_attention_norm", "pre_ffw_norm")}
    return scale_adapters({"attn": attn, **rest}, (config.expert if suffix else config.lm).lora_scale)


def _scan_layers(layer: Any, x: Array, stacked: Any, config: VLAConfig) -> tuple[Array, Any]:
    flat = unroll(config.attention.depth)

    def body(x: Array, one: Any) -> tuple[Array, Any]:
        return layer(x, from_bits(one))

    body = jax.checkpoint(body, prevent_cse=flat) if config.remat else body  # a loop's body is recomputed anyway
    return jax.lax.scan(body, x, stacked, unroll=flat)


def _qkv(attn: Params, x: Float[Array, "*B T D"], turn: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    q = project(attn["q_einsum"], x)
    k, v = (project({name: leaf[i] for name, leaf in attn["kv_einsum"].items()}, x) for i in range(2))
    return rope(q, turn), rope(k, turn), v


def _pad(x: Float[Array, "*B A"], width: int) -> Float[Array, "*B W"]:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])


# Flow matching: DexHiL eq. 11.


def flow_loss(
    params: Params, config: VLAConfig, inputs: Inputs, key: jax.Array, *, flow_samples: int = 1
) -> Float[Array, " *shape"]:
    """Squared velocity error per sample and step, averaged over real action dims and `flow_samples` draws.

    The prefix is encoded once; only the expert runs for every draw. The first `delay` actions are clean, at time 1
    (their error says nothing: mask it, as `step.draw_delays` does). Source: DexHiL eq. 11; arXiv 2512.05964.
    """
    noise_key, time_key = jax.random.split(key)
    batch, chunk = inputs["actions"].shape[:2]
    noise = jax.random.normal(noise_key, (batch, flow_samples, chunk, config.padded_action_dim))
    t = draw_times(config, time_key, (batch, flow_samples))
    if "delay" in inputs:
        t = jnp.where(jnp.arange(chunk) < inputs["delay"][:, None, None], 1.0, t[..., None])
    return flow_errors(params, config, inputs, noise, t).mean(axis=1)


def draw_times(config: VLAConfig, key: jax.Array, shape: tuple[int, ...]) -> Float[Array, " *shape"]:
    """Times in [0, 0.999], most of them near the noise: openpi's distribution with t = 1 as data."""
    return 0.999 * (1 - jax.random.beta(key, *config.time_beta, shape))


def flow_errors(
    params: Params,
    config: VLAConfig,
    inputs: Inputs,
    noise: Float[Array, "B M H A"],
    t: Float[Array, "B M"] | Float[Array, "B M H"],
) -> Float[Array, "B M H"]:
    """Squared velocity error at given noise (padded width) and times, averaged over real action dims.

    Insulated, its gradient stops at the prefix's keys and values. Source: knowledge insulation, arXiv 2505.23705.
    """
    kv, prefix_mask = encode_prefix(params, config, inputs["images"], inputs["tokens"], inputs["token_mask"])
    if config.insulate:
        kv = jax.lax.stop_gradient(kv)
    actions = _pad(inputs["actions"], config.padded_action_dim)[:, None]
    t = t[..., None] if t.ndim == 2 else t
    x_t = (1 - t[..., None]) * noise + t[..., None] * actions
    v = _denoise(params, config, kv, prefix_mask, x_t, t, inputs["state"])
    return jnp.square(v - (actions - noise))[..., : config.action_dim].mean(axis=-1)
