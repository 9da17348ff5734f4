"""A loader batch, or one observation, in the model's terms: the one path of training and serving. NumPy only."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dexhil.models.config import VLAConfig
from dexhil.models.tokenizer import Tokenizer, prompt
from dexhil.transforms.normalization import Normalization, resize_image

STATE_CLIP = 3.0  # a joint that leaves its recorded range by far must not swamp the other inputs


def _check_batch(batch: Mapping[str, Any], normalization: Normalization, config: VLAConfig) -> None:
    if missing := [camera for camera in config.cameras if camera not in batch["images"]]:
        raise ValueError(
            f"cameras: the model needs {list(config.cameras)}, got {sorted(batch['images'])}; add {missing}"
        )
    for name in normalization.recorded_dims.keys() & batch.keys():
        values, width = batch[name], normalization.recorded_dims[name]
        if values.shape[-1] != width:
            got = values.shape[-1]
            raise ValueError(f"{name}: the model was made for width {width}, got {got}; another robot or mapping?")
        if not np.isfinite(values).all():
            index = np.argwhere(~np.isfinite(values))[0].tolist()
            raise ValueError(f"{name}: non-finite value {values[tuple(index)]} at index {index}; repair that episode")


def model_inputs(
    batch: Mapping[str, Any], normalization: Normalization, tokenizer: Tokenizer, config: VLAConfig
) -> dict[str, Any]:
    """The batch in the model's terms, NumPy throughout; an observation is a batch of one without actions.

    A batch holds images {camera: uint8 [B, Y, X, 3]}, state float32 [B, S], instruction [B] str; to train also actions
    float32 [B, H, A] raw absolute, action_mask bool [B, H] and, optionally, weight float32 [B].

    Returns:
        images {camera: uint8 [B, size, size, 3]}, still bytes (see `transforms.images_to_float`), state, tokens int32
        [B, T], token_mask bool [B, T], and where given actions, action_mask and weight.

    Raises:
        ValueError: a camera is missing, a width is another, or a number is NaN.
        TypeError: an instruction is no str.
    """
    _check_batch(batch, normalization, config)
    state = normalization.normalize_state(batch["state"], clip=STATE_CLIP)
    in_text = config.state_input == "text"
    texts = [prompt(text, row if in_text else None) for text, row in zip(batch["instruction"], state, strict=True)]
    tokens, token_mask = zip(*(tokenizer.encode(text, config.max_tokens) for text in texts), strict=True)
    inputs = {
        "images": {camera: resize_image(batch["images"][camera], config.image_size) for camera in config.cameras},
        "state": state,
        "tokens": np.stack(tokens),
        "token_mask": np.stack(token_mask),
    }
    if "actions" in batch:
        inputs["actions"] = normalization.normalize_actions(batch["actions"], batch["state"])
        inputs["action_mask"] = batch["action_mask"]
        inputs["weight"] = batch.get("weight", np.ones(len(state), np.float32))
    return inputs


def check_instructions(texts: Iterable[str], tokenizer: Tokenizer, config: VLAConfig) -> None:
    """Raises ValueError, with the length to set, unless every instruction fits beside the longest state."""
    state = np.ones(config.state_dim) if config.state_input == "text" else None
    lengths = {text: len(tokenizer.ids(prompt(text, state))) for text in texts}
    longest = max(lengths, key=lambda text: lengths[text], default="")
    if lengths.get(longest, 0) > config.max_tokens:
        raise ValueError(
            f"instruction {longest!r}: takes {lengths[longest]} tokens, model.max_tokens is {config.max_tokens}; set "
            f"--config.model.max_tokens={lengths[longest]} (a run that has begun takes it too) or shorten the text"
        )


def fake_batch(
    config: VLAConfig,
    batch_size: int,
    seed: int = 0,
    normalization: Normalization | None = None,
    instruction: str = "Grab that yellow plushie",
) -> dict[str, Any]:
    """A random batch as a loader's, of the widths that `normalization` was made from, or else of the model's."""
    rng = np.random.default_rng(seed)
    size = config.image_size
    widths = normalization.recorded_dims if normalization else {"state": config.state_dim, "actions": config.action_dim}
    return {
        "images": {c: rng.integers(0, 256, (batch_size, size, size, 3), np.uint8) for c in config.cameras},
        "state": rng.uniform(-1, 1, (batch_size, widths["state"])).astype(np.float32),
        "actions": rng.uniform(-1, 1, (batch_size, config.chunk, widths["actions"])).astype(np.float32),
        "action_mask": np.ones((batch_size, config.chunk), bool),
        "instruction": [instruction] * batch_size,
        "weight": np.ones(batch_size, np.float32),
    }
