"""Augmentation: draws are independent, bounded, and nothing happens where nothing is asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.training.augment import AugmentConfig, augment
from tests.tolerances import FEW, assert_close, roundings

NOTHING = AugmentConfig(shift=0.0, brightness=0.0, contrast=0.0, saturation=0.0)


@pytest.fixture(scope="module")
def images() -> dict[str, jax.Array]:
    scene = jax.random.uniform(jax.random.key(0), (4, 20, 20, 3), minval=-1.0)
    return {"scene": scene, "wrist": scene}


def test_zero_limits_change_nothing(images):
    result = augment(images, jax.random.key(1), NOTHING)
    assert_close(result["scene"], images["scene"], FEW)


def test_every_image_and_camera_has_its_own_draw(images):
    same = {camera: jnp.broadcast_to(batch[:1], batch.shape) for camera, batch in images.items()}
    result = augment(same, jax.random.key(1), AugmentConfig())
    assert not np.allclose(result["scene"][0], result["scene"][1])
    assert not np.allclose(result["scene"][0], result["wrist"][0])


def test_range_and_shape_stay_and_the_key_decides(images):
    result = augment(images, jax.random.key(1), AugmentConfig())
    again = augment(images, jax.random.key(1), AugmentConfig())
    assert result["scene"].shape == images["scene"].shape
    assert float(jnp.abs(result["scene"]).max()) <= 1.0
    np.testing.assert_array_equal(result["wrist"], again["wrist"])


def test_a_shift_moves_whole_pixels_of_the_listed_cameras_alone(images):
    config = AugmentConfig(shift=0.1, brightness=0.0, contrast=0.0, saturation=0.0)
    result = augment(images, jax.random.key(3), config)
    assert_close(result["wrist"], images["wrist"], FEW)
    moved, image = np.asarray(result["scene"][0]), np.asarray(images["scene"][0])
    offsets = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]
    matches = [
        np.allclose(moved[4:16, 4:16], image[4 + y : 16 + y, 4 + x : 16 + x], atol=roundings(FEW)) for y, x in offsets
    ]
    assert sum(matches) == 1
