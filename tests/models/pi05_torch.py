"""pi0.5 in PyTorch, written from its description: one joint pass, adaptive RMSNorm in the expert, t = 1 as noise.

Shares no code with ours or with transformers. `weights`: {name: tensor} in the spelling of openpi's PyTorch model.
Axes: B batch, S prefix, T = S + H all tokens, N heads, h head size, D width.
"""

import math

from tests.models.huggingface import torch

linear, silu = torch.nn.functional.linear, torch.nn.functional.silu

PREFIX = "paligemma_with_expert.paligemma.model.language_model"
EXPERT = "paligemma_with_expert.gemma_expert.model"


def velocity(weights, config, image_features, tokens, token_mask, x_t, time):
    """Noise - action at x_t [B, H, A] and time [B]; image_features [B, S', D] of all cameras."""
    text = weights[f"{PREFIX}.embed_tokens.weight"][tokens] * math.sqrt(config.lm.width)
    streams = [torch.cat([image_features, text], 1), dense(weights, "action_in_proj", x_t)]
    features = time_features(time, config.expert.width)
    cond = silu(dense(weights, "time_mlp_out", silu(dense(weights, "time_mlp_in", features))))
    sizes = [stream.shape[1] for stream in streams]
    real = torch.ones(len(tokens), sum(sizes), dtype=torch.bool)
    real[:, image_features.shape[1] : sizes[0]] = token_mask
    positions = real.cumsum(1) - 1
    block = torch.tensor([0] * sizes[0] + [1] * sizes[1])
    mask = (block[None, :] <= block[:, None])[None] & real[:, None]
    for layer in range(config.attention.depth):
        streams = joint_layer(weights, config, layer, streams, cond, mask, positions)
    out, _ = norm_of(weights, f"{EXPERT}.norm", streams[1], cond)
    return dense(weights, "action_out_proj", out)


def joint_layer(weights, config, layer, streams, cond, mask, positions):
    names = [f"{PREFIX}.layers.{layer}", f"{EXPERT}.layers.{layer}"]
    normed = [norm_of(weights, f"{name}.input_layernorm", x, cond) for name, x in zip(names, streams, strict=True)]
    heads, groups, size = config.attention.num_heads, config.attention.num_kv_heads, config.attention.head_dim

    def rows(kind, count):
        inputs = zip(normed, names, strict=True)
        parts = [linear(x, weights[f"{name}.self_attn.{kind}_proj.weight"]) for (x, _), name in inputs]
        return torch.cat(parts, 1).unflatten(-1, (count, size)).transpose(1, 2)

    q, k, v = turn(rows("q", heads), positions), turn(rows("k", groups), positions), rows("v", groups)
    k, v = (x.repeat_interleave(heads // groups, dim=1) for x in (k, v))
    scores = (q @ k.transpose(-1, -2) / math.sqrt(size)).masked_fill(~mask[:, None], -torch.inf)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2).split([x.shape[1] for x in streams], dim=1)
    out = []
    for x, y, (_, gate), name in zip(streams, mixed, normed, names, strict=True):
        x = x + linear(y, weights[f"{name}.self_attn.o_proj.weight"]) * gate
        y, gate = norm_of(weights, f"{name}.post_attention_layernorm", x, cond)
        gate_in, up = (linear(y, weights[f"{name}.mlp.{kind}_proj.weight"]) for kind in ("gate", "up"))
        hidden = gelu_tanh(gate_in) * up
        out.append(x + linear(hidden, weights[f"{name}.mlp.down_proj.weight"]) * gate)
    return out


def dense(weights, name, x):
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def rms(x):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def norm_of(weights, name, x, cond):
    """The normed stream and the gate of its residual. In the expert scale, shift and gate come from the time."""
    if f"{name}.weight" in weights:
        return rms(x) * (1 + weights[f"{name}.weight"]), 1.0
    scale, shift, gate = dense(weights, f"{name}.dense", cond)[:, None].chunk(3, -1)
    return rms(x) * (1 + scale) + shift, gate


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def turn(x, positions):
    """Rotates pair (i, i + h/2) of each head [B, N, T, h] by position / 10000^(2i/h)."""
    half = x.shape[-1] // 2
    angle = positions[:, None, :, None] / 10000 ** (torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def time_features(time, width):
    period = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, width // 2, dtype=torch.float64)
    angle = time[:, None] * (2 * math.pi / period).float()
    return torch.cat([angle.sin(), angle.cos()], -1)
