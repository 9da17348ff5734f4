"""transformers' pi0 at the sizes of one of our models, with random weights: what our speed is compared with."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dexhil.models.config import GemmaConfig, VLAConfig
from experiments.benchmarks.measure import milliseconds, summary


def gemma_settings(config: VLAConfig, stream: GemmaConfig) -> dict[str, Any]:
    """Of transformers' GemmaConfig."""
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


def paligemma_settings(config: VLAConfig) -> dict[str, Any]:
    """Of transformers' PaliGemmaConfig."""
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


def make_pi0(config: VLAConfig) -> Any:
    """An untrained pi0. Raises ImportError where transformers has none."""
    import transformers

    if not hasattr(transformers, "PI0ForConditionalGeneration"):
        raise ImportError(f"transformers {transformers.__version__} has no pi0; it came with 5.0")
    settings = transformers.PI0Config(
        vlm_config=paligemma_settings(config),
        dit_config=gemma_settings(config, config.expert),
        chunk_size=config.chunk,
        max_action_dim=config.padded_action_dim,
        max_state_dim=config.padded_state_dim,
    )
    return transformers.PI0ForConditionalGeneration(settings)


def torch_inputs(config: VLAConfig, inputs: dict[str, Any], device: str, dtype: Any) -> dict[str, Any]:
    """Our inputs as transformers takes them: images of all cameras, then the text, and states in the padded width."""
    import torch

    views = np.stack([inputs["images"][camera] for camera in config.cameras], axis=1)
    batch, images = len(views), len(config.cameras) * config.image_tokens
    ids = np.concatenate([np.full((batch, images), config.vocab_size), inputs["tokens"]], axis=1)
    pixels = torch.from_numpy(views).to(device).movedim(-1, 2).to(dtype) / 127.5 - 1
    wide = np.pad(inputs["state"], ((0, 0), (0, config.padded_state_dim - inputs["state"].shape[1])))
    return {
        "pixel_values": pixels,
        "pixel_attention_mask": torch.ones(views.shape[:2], dtype=torch.bool, device=device),
        "input_ids": torch.from_numpy(ids.astype(np.int64)).to(device),
        "attention_mask": torch.ones(ids.shape, dtype=torch.int64, device=device),
        "state": torch.from_numpy(wide).to(device, dtype),
    }


def _prepare(config: VLAConfig, dtype: str) -> tuple[Any, str]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        return make_pi0(config), device


def time_inference(config: VLAConfig, inputs: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Bytes of the images to one finished chunk, in bfloat16 (on a CPU in float32), 10 steps."""
    import torch

    model, device = _prepare(config, "bfloat16" if torch.cuda.is_available() else "float32")
    noise = torch.randn((1, config.chunk, config.padded_action_dim), device=device)

    @torch.inference_mode()
    def infer() -> None:
        given = torch_inputs(config, inputs, device, torch.get_default_dtype())
        model.eval().sample_actions(noise=noise, num_steps=10, **given).cpu()

    milliseconds(infer, 3)
    return summary(milliseconds(infer, repeats)[0]) | {"torch": torch.__version__}


def time_step(config: VLAConfig, batches: Sequence[Callable[[], dict[str, Any]]], repeats: int) -> dict[str, Any]:
    """Steps of AdamW, float32 parameters with bfloat16 products, no recomputation, at the first batch that fits."""
    import torch

    model, device = _prepare(config, "float32")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device == "cuda")
    for make_batch in batches:
        inputs = make_batch()
        given = torch_inputs(config, inputs, device, torch.float32)
        width = config.padded_action_dim - inputs["actions"].shape[-1]
        actions = torch.from_numpy(np.pad(inputs["actions"], ((0, 0), (0, 0), (0, width)))).to(device)
        try:
            step = functools.partial(_step, model, optimizer, given, actions, device)
            step()
            wall, _ = milliseconds(step, repeats)
        except torch.cuda.OutOfMemoryError:
            optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            continue
        peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
        rate = 1e3 * len(actions) / float(np.median(wall))
        return {"batch_size": len(actions), "samples_per_second": rate, "peak_gib": peak, "torch": torch.__version__}
    raise MemoryError("PyTorch: no batch fits")


def _step(model: Any, optimizer: Any, given: dict[str, Any], actions: Any, device: str) -> None:
    import torch

    with torch.autocast(device, torch.bfloat16):
        loss = model(actions=actions, **given).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    float(loss)
    if device == "cuda":
        torch.cuda.synchronize()
