"""An independent joint pass: both streams in one sequence, one layer after the other, one mask built token by token.

Written from the method's description, with none of the model's own layers, to be compared with the two passes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def rms(x, scale: Any = 0.0, shift: Any = 0.0):
    return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * (1 + scale) + shift


def layer_norm(x, p):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x**3)))


def fold(x, f):
    rows = [x[:, i::f, j::f] for i in range(f) for j in range(f)]
    return jnp.concatenate(rows, axis=-1)


def image_tokens(p, config, image):
    for index, (factor, _) in enumerate(config.vision.stem):
        image = gelu(linear(fold(image, factor), p[f"stem_{index}"]))
    patches = fold(image, config.vision.patch)
    kernel = p["embedding"]["kernel"].reshape(-1, config.vision.width)
    x = patches.reshape(len(image), -1, patches.shape[-1]) @ kernel + p["embedding"]["bias"] + p["pos_embedding"]
    for depth in range(config.vision.depth):
        layer = jax.tree.map(lambda leaf, depth=depth: leaf[depth], p["Transformer"]["encoderblock"])
        attention = layer["MultiHeadDotProductAttention_0"]
        y = layer_norm(x, layer["LayerNorm_0"])
        q, k, v = (
            jnp.einsum("bpd,dnh->bnph", y, attention[name]["kernel"]) + attention[name]["bias"][:, None]
            for name in ("query", "key", "value")
        )
        probs = jax.nn.softmax(jnp.einsum("bnph,bnqh->bnpq", q, k) / q.shape[-1] ** 0.5, -1)
        mixed = jnp.einsum("bnpq,bnqh->bpnh", probs, v)
        x = x + jnp.einsum("bpnh,nhd->bpd", mixed, attention["out"]["kernel"]) + attention["out"]["bias"]
        y = layer_norm(x, layer["LayerNorm_1"])
        x = x + linear(gelu(linear(y, layer["MlpBlock_0"]["Dense_0"])), layer["MlpBlock_0"]["Dense_1"])
    return linear(layer_norm(x, p["Transformer"]["encoder_norm"]), p["head"])


def rotate(x, positions):
    half = x.shape[-1] // 2
    angle = positions[..., None] / 10000.0 ** (jnp.arange(half) / half)
    pair = (x[..., :half] + 1j * x[..., half:]) * jnp.exp(1j * angle)[:, :, None]
    return jnp.concatenate([pair.real, pair.imag], -1)


def time_features(t, width):
    # The highest angle is 1570 rad: one rounding more or less in float32 changes its sine by 1e-4.
    angle = t[..., None] * (2 * np.pi / np.geomspace(4e-3, 4.0, width // 2)).astype(np.float32)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


def swish(x):
    return x / (1 + jnp.exp(-x))


def joint_velocity(params, config, inputs, x_t, t, state_block=1):
    """Velocity [B, H, A] at x_t and t [B, H]. `state_block` 0 moves the state token into the prefix: a mutation."""
    gemma, batch = params["PaliGemma"], len(x_t)
    views = []
    for index, camera in enumerate(config.cameras):
        tokens = image_tokens(gemma["img"], config, inputs["images"][camera])
        views.append(tokens + (gemma["img"]["camera_embedding"][index] if config.camera_embedding else 0.0))
    text = gemma["llm"]["embedder"]["input_embedding"][inputs["tokens"]] * jnp.sqrt(config.lm.width)
    prefix = jnp.concatenate([*views, text], 1)
    images = prefix.shape[1] - text.shape[1]
    valid = jnp.concatenate([jnp.ones((batch, images), bool), inputs["token_mask"]], 1)

    suffix, blocks = linear(x_t, params["action_in_proj"]), [state_block + 1] * config.chunk
    has_state = config.state_input == "token"
    cond = None
    if config.variant == "pi05":
        times = jnp.concatenate([jnp.ones((batch, 1)), t], 1) if has_state else t
        cond = time_features(times, config.expert.width)
        cond = swish(linear(swish(linear(cond, params["time_mlp_in"])), params["time_mlp_out"]))
    else:
        mixed = jnp.concatenate([suffix, time_features(t, config.expert.width)], -1)
        suffix = linear(swish(linear(mixed, params["action_time_mlp_in"])), params["action_time_mlp_out"])
    if has_state:
        suffix = jnp.concatenate([linear(inputs["state"], params["state_proj"])[:, None], suffix], 1)
        blocks = [state_block, *blocks]
    block = jnp.array([0] * prefix.shape[1] + blocks)
    valid = jnp.concatenate([valid, jnp.ones(suffix.shape[:2], bool)], 1)
    mask = (block[None, :] <= block[:, None])[None] & valid[:, None]
    positions = jnp.cumsum(valid, 1) - 1

    streams = [prefix, suffix]
    for depth in range(config.attention.depth):
        layer = jax.tree.map(lambda leaf, depth=depth: leaf[depth], gemma["llm"]["layers"])
        streams = joint_layer(layer, config, streams, mask, positions, cond)
    final = gemma["llm"]["final_norm_1"]
    out, _ = modulated(streams[1], final, cond)
    return linear(out[:, -config.chunk :], params["action_out_proj"])


def modulated(x, p, cond):
    if cond is None:
        return rms(x, p["scale"]), 1.0
    scale, shift, gate = jnp.split(linear(cond, p["Dense_0"]), 3, -1)
    return rms(x, scale, shift), gate


def joint_layer(layer, config, streams, mask, positions, cond):
    conds, suffixes, split = (None, cond), ("", "_1"), streams[0].shape[1]
    normed, gates = zip(
        *(modulated(x, layer[f"pre_attention_norm{s}"], c) for x, s, c in zip(streams, suffixes, conds, strict=True)),
        strict=True,
    )
    attn = layer["attn"]
    q = [jnp.einsum("btd,ndh->btnh", y, attn[f"q_einsum{s}"]["w"]) for y, s in zip(normed, suffixes, strict=True)]
    kv = [jnp.einsum("btd,ckdh->cbtkh", y, attn[f"kv_einsum{s}"]["w"]) for y, s in zip(normed, suffixes, strict=True)]
    q, (k, v) = jnp.concatenate(q, 1), jnp.concatenate(kv, 2)
    repeats = config.attention.num_heads // config.attention.num_kv_heads
    q, k, v = rotate(q, positions), jnp.repeat(rotate(k, positions), repeats, 2), jnp.repeat(v, repeats, 2)
    logits = jnp.einsum("btnh,bsnh->bnts", q, k) / config.attention.head_dim**0.5
    probs = jax.nn.softmax(jnp.where(mask[:, None], logits, -1e30), -1)
    mixed = jnp.split(jnp.einsum("bnts,bsnh->btnh", probs, v), [split], 1)
    out = []
    for x, y, s, c, gate in zip(streams, mixed, suffixes, conds, gates, strict=True):
        x = x + gate * jnp.einsum("btnh,nhd->btd", y, attn[f"attn_vec_einsum{s}"]["w"])
        y, gate = modulated(x, layer[f"pre_ffw_norm{s}"], c)
        mlp = layer[f"mlp{s}"]
        hidden = gelu(y @ mlp["gating_einsum"][0]) * (y @ mlp["gating_einsum"][1])
        out.append(x + gate * (hidden @ mlp["linear"]))
    return out
