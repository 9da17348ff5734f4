"""Small shifts and colour jitter on the accelerator, image by image: float32 [B, H, W, 3] in [-1, 1], in and out."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """shift: largest shift as a fraction of the image side, edges repeated. brightness, contrast, saturation: largest
    relative change. shift_cameras: which cameras are shifted; a camera on the wrist measures where the hand is in
    pixels, so by default it is not.
    """

    shift: float = 0.05
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    shift_cameras: tuple[str, ...] = ("scene",)


def _shift(image: jax.Array, key: jax.Array, largest: int) -> jax.Array:
    padded = jnp.pad(image, ((largest, largest), (largest, largest), (0, 0)), mode="edge")
    row, column = jax.random.randint(key, (2,), 0, 2 * largest + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def _colour(images: jax.Array, key: jax.Array, config: AugmentConfig) -> jax.Array:
    limits = jnp.array([config.brightness, config.contrast, config.saturation])
    draws = 1.0 + limits * jax.random.uniform(key, (len(images), 3), minval=-1.0)
    brightness, contrast, saturation = (draws[:, i, None, None, None] for i in range(3))
    result = (images + 1.0) * brightness
    mean = result.mean(axis=(1, 2, 3), keepdims=True)
    result = mean + (result - mean) * contrast
    grey = result.mean(axis=-1, keepdims=True)
    return jnp.clip(grey + (result - grey) * saturation - 1.0, -1.0, 1.0)


def augment(images: Mapping[str, jax.Array], key: jax.Array, config: AugmentConfig) -> dict[str, jax.Array]:
    """camera -> [B, H, W, 3] to the same, every image with its own draw."""
    result = {}
    for index, camera in enumerate(sorted(images)):
        batch = images[camera]
        shift_key, colour_key = jax.random.split(jax.random.fold_in(key, index))
        largest = round(config.shift * batch.shape[1])
        if largest and camera in config.shift_cameras:
            keys = jax.random.split(shift_key, len(batch))
            batch = jax.vmap(_shift, in_axes=(0, 0, None))(batch, keys, largest)
        result[camera] = _colour(batch, colour_key, config)
    return result
