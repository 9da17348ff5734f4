"""PaliGemma of transformers and ours on the same file: image tower, projector, logits, keys and values."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from dexhil.models.vla import bind
from dexhil.models.weights.load import load_params
from tests.models.huggingface import SMALL_PI0, paligemma, torch, torch_inputs

EXPERT = ("llm/.*_1/", "^(action|state|time)_")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, random_inputs):
    """(their model, our parameters from its file, inputs)"""
    folder, model = tmp_path_factory.mktemp("paligemma"), paligemma(SMALL_PI0)
    model.save_pretrained(folder)
    params = load_params(folder, SMALL_PI0, init=EXPERT, key=jax.random.key(0))
    return model, params, random_inputs(SMALL_PI0)


def test_image_tower_and_projector(pair):
    model, params, inputs = pair
    encode = jax.jit(lambda params, image: bind(params, SMALL_PI0).PaliGemma.img(image))
    for camera, image in inputs["images"].items():
        with torch.no_grad():
            pixels = torch_inputs(dataclasses.replace(SMALL_PI0, cameras=(camera,)), inputs)["pixel_values"][:, 0]
            expected = model.get_image_features(pixels).pooler_output.numpy()
        np.testing.assert_allclose(encode(params, image), expected, atol=1e-5, rtol=0)


def _theirs(model, inputs):
    given = torch_inputs(SMALL_PI0, inputs)
    pixels = given.pop("pixel_values")
    with torch.no_grad():
        return model(
            pixel_values=pixels.flatten(0, 1),
            token_type_ids=torch.zeros_like(given["input_ids"]),
            use_cache=True,
            **given,
        )


@functools.partial(jax.jit, static_argnames="config")
def _ours(params, config, inputs):
    """Logits through the tied embedding, keys and values, mask."""
    model = bind(params, config)
    kv, mask, x = model.encode_prefix(inputs["images"], inputs["tokens"], inputs["token_mask"])
    x, _ = model.PaliGemma.llm.final_norm(x)
    return x @ model.PaliGemma.llm.embedder["input_embedding"].T, kv, mask


def test_logits_keys_and_values_with_padding_and_prefix_mask(pair):
    model, params, inputs = pair
    expected = _theirs(model, inputs)
    logits, (keys, values), mask = _ours(params, SMALL_PI0, inputs)
    assert not mask.all()
    np.testing.assert_allclose(logits[mask], expected.logits.numpy()[mask], atol=2e-5, rtol=0)
    for layer in range(SMALL_PI0.attention.depth):
        cached = expected.past_key_values.layers[layer]
        for mine, theirs in ((keys[layer], cached.keys), (values[layer], cached.values)):
            np.testing.assert_allclose(mine[mask], theirs.numpy().swapaxes(1, 2)[mask], atol=2e-5, rtol=0)


def test_a_wrong_mask_is_noticed(pair):
    """The prefix sees its padding: far outside the tolerance."""
    model, params, inputs = pair
    expected = _theirs(model, inputs).logits.numpy()
    unmasked = inputs | {"token_mask": np.ones_like(inputs["token_mask"])}
    logits, _, _ = _ours(params, SMALL_PI0, unmasked)
    mask = _ours(params, SMALL_PI0, inputs)[2]
    assert np.abs(logits[mask] - expected[mask]).max() > 1e-2
