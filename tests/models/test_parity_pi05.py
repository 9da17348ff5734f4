"""pi0.5 against an independent PyTorch joint pass, on a file spelled as openpi's and LeRobot's."""

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from dexhil.models.weights.load import load_params
from tests.models.huggingface import SMALL_PI05, paligemma, pi05_arrays, torch, torch_inputs
from tests.models.pi05_torch import velocity
from tests.models.pure import denoise, encode_prefix


@jax.jit
def ours(params, inputs, x_t, t):
    config = SMALL_PI05
    kv, mask = encode_prefix(params, config, inputs["images"], inputs["tokens"], inputs["token_mask"])
    return denoise(params, config, kv, mask, x_t, t, inputs["state"])


def test_velocity(tmp_path, random_inputs):
    arrays, inputs = pi05_arrays(SMALL_PI05), random_inputs(SMALL_PI05)
    save_file(arrays, tmp_path / "model.safetensors")
    params = load_params(tmp_path, SMALL_PI05)
    x_t = jnp.asarray(np.random.default_rng(3).normal(size=(2, SMALL_PI05.chunk, SMALL_PI05.action_dim)), jnp.float32)
    time = jnp.array([0.25, 0.8125])  # 1 - t is exact

    given = torch_inputs(SMALL_PI05, inputs)
    with torch.no_grad():
        features = paligemma(SMALL_PI05).get_image_features(given["pixel_values"].flatten(0, 1)).pooler_output
        theirs = velocity(
            {name: torch.from_numpy(value) for name, value in arrays.items()},
            SMALL_PI05,
            features.reshape(2, -1, SMALL_PI05.lm.width),
            *(torch.from_numpy(np.array(inputs[name])) for name in ("tokens", "token_mask")),
            *(torch.from_numpy(np.array(value)) for value in (x_t, time)),
        ).numpy()
    assert np.abs(theirs).mean() > 0.1
    np.testing.assert_allclose(ours(params, inputs, x_t, 1 - time), -theirs, atol=2e-5, rtol=0)
