"""Small models of transformers with every parameter drawn, in files, beside our configuration of the same sizes."""

import dataclasses

import numpy as np
import pytest

from dexhil.models.config import PI0, PI05, AttentionConfig, GemmaConfig, VisionConfig

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


def require_torch():
    """torch, or a skipped module: make test installs it from requirements-parity.txt."""
    pytest.importorskip("transformers", reason="parity with PyTorch: pip install --no-deps -r requirements-parity.txt")
    return pytest.importorskip("torch")


def gemma_settings(config, stream):
    return {
        "model_type": "gemma",
        "hidden_size": stream.width,
        "intermediate_size": stream.mlp_dim,
        "num_hidden_layers": config.attention.depth,
        "num_attention_heads": config.attention.num_heads,
        "num_key_value_heads": config.attention.num_kv_heads,
        "head_dim": config.attention.head_dim,
        "vocab_size": config.vocab_size,
    }


def paligemma_settings(config):
    vision = config.vision
    tower = {
        "model_type": "siglip_vision_model",
        "hidden_size": vision.width,
        "intermediate_size": vision.mlp_dim,
        "num_hidden_layers": vision.depth,
        "num_attention_heads": vision.num_heads,
        "patch_size": vision.patch,
        "image_size": config.image_size,
        "projection_dim": config.lm.width,
        "vision_use_head": False,
    }
    return {
        "model_type": "paligemma",
        "text_config": gemma_settings(config, config.lm),
        "vision_config": tower,
        "projection_dim": config.lm.width,
        "image_token_id": config.vocab_size,  # outside the vocabulary, as in the public files
    }


def paligemma(config, seed=0):
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    settings = paligemma_settings(config)
    del settings["model_type"]
    return drawn(PaliGemmaForConditionalGeneration(PaliGemmaConfig(**settings)), seed)


def pi0(config, seed=0):
    from transformers import PI0Config, PI0ForConditionalGeneration

    settings = PI0Config(
        vlm_config=paligemma_settings(config),
        dit_config=gemma_settings(config, config.expert),
        chunk_size=config.chunk,
        max_action_dim=config.action_dim,
        max_state_dim=config.state_dim,
    )
    return drawn(PI0ForConditionalGeneration(settings), seed)


def drawn(model, seed):
    """Every parameter drawn, norms too: at their zeros many mistakes change nothing."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(SCALE * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def file_arrays(folder):
    """{name: array} of the safetensors file that `save_pretrained` wrote."""
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def torch_inputs(config, inputs):
    """Our model inputs as transformers takes them: pixels [B V 3 Y X], image tokens before the text, positions."""
    import torch

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
