"""Small models of transformers with every parameter drawn, in files, beside our configuration of the same sizes."""

import dataclasses

import numpy as np
import pytest

from dexhil.models.config import PI0, PI05, AttentionConfig, GemmaConfig, VisionConfig
from experiments.benchmarks.torch_pi0 import make_pi0, paligemma_settings

# make test installs them; elsewhere the modules that import this one are skipped.
REASON = "parity with PyTorch needs: pip install --no-deps -r requirements-parity.txt"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

SCALE = 0.2  # of the drawn parameters: activations stay near 1, where float32 is finest

# The head's size is not the width over the heads, and query heads share keys: equal numbers would hide a mix-up.
_SIZES = {
    "image_size": 8,
    "vision": VisionConfig(width=12, depth=2, num_heads=2, mlp_dim=20, patch=4),
    "attention": AttentionConfig(depth=2, num_heads=4, num_kv_heads=2, head_dim=6),
    "lm": GemmaConfig(width=16, mlp_dim=28),
    "expert": GemmaConfig(width=8, mlp_dim=22),
    "vocab_size": 128,
    "max_tokens": 7,
    "action_dim": 5,
    "state_dim": 3,
    "action_width": 0,
    "state_width": 0,
    "chunk": 4,
    "dtype": "float32",
    "remat": False,
}
SMALL_PI0 = dataclasses.replace(PI0, **_SIZES)
SMALL_PI05 = dataclasses.replace(PI05, **_SIZES)


def paligemma(config, seed=0):
    settings = paligemma_settings(config)
    del settings["model_type"]
    return drawn(transformers.PaliGemmaForConditionalGeneration(transformers.PaliGemmaConfig(**settings)), seed)


def pi0(config, seed=0):
    return drawn(make_pi0(config), seed)


def drawn(model, seed):
    """Every parameter drawn, norms too: at their zeros many mistakes change nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(SCALE * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def torch_inputs(config, inputs):
    """Our model inputs as transformers takes them: pixels [B V 3 Y X], image tokens before the text, positions."""
    views = np.stack([np.asarray(inputs["images"][camera]) for camera in config.cameras], axis=1)
    batch, images = len(views), len(config.cameras) * config.image_tokens
    placeholders = np.full((batch, images), config.vocab_size)
    ids = np.concatenate([placeholders, np.asarray(inputs["tokens"])], axis=1)
    mask = np.concatenate([np.ones((batch, images), bool), np.asarray(inputs["token_mask"])], axis=1)
    return {
        "pixel_values": torch.from_numpy(np.ascontiguousarray(views.transpose(0, 1, 4, 2, 3))),
        "input_ids": torch.from_numpy(ids.astype(np.int64)),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        "position_ids": torch.from_numpy(mask.cumsum(axis=1) - 1),
    }


def pi05_arrays(config, seed=0):
    """{name: array} of a pi0.5 in the spelling of openpi's PyTorch model, which transformers has no class for."""
    rng = np.random.default_rng(seed)
    shared, width, wide = config.attention, config.expert.width, config.expert.mlp_dim
    rows, few = shared.num_heads * shared.head_dim, shared.num_kv_heads * shared.head_dim
    layer = {
        "self_attn.q_proj.weight": (rows, width),
        "self_attn.k_proj.weight": (few, width),
        "self_attn.v_proj.weight": (few, width),
        "self_attn.o_proj.weight": (width, rows),
        "mlp.gate_proj.weight": (wide, width),
        "mlp.up_proj.weight": (wide, width),
        "mlp.down_proj.weight": (width, wide),
        **_linear("input_layernorm.dense", 3 * width, width),
        **_linear("post_attention_layernorm.dense", 3 * width, width),
    }
    gemma = "paligemma_with_expert.gemma_expert.model"
    shapes = {f"{gemma}.layers.{i}.{name}": shape for i in range(shared.depth) for name, shape in layer.items()}
    shapes |= _linear(f"{gemma}.norm.dense", 3 * width, width)
    shapes |= _linear("time_mlp_in", width, width) | _linear("time_mlp_out", width, width)
    shapes |= _linear("action_in_proj", width, config.action_dim) | _linear("action_out_proj", config.action_dim, width)
    expert = {name: (SCALE * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    vlm = {name: value.numpy() for name, value in paligemma(config, seed).state_dict().items()}
    return expert | {f"paligemma_with_expert.paligemma.{name}": value for name, value in vlm.items()}


def _linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
