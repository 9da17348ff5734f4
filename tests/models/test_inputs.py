"""The one path from recorded values to the model's terms."""

import dataclasses

import numpy as np
import pytest

from dexhil.models.config import TINY
from dexhil.models.inputs import STATE_CLIP, check_instructions, fake_batch, model_inputs
from dexhil.models.tokenizer import Tokenizer, prompt, train_tokenizer
from dexhil.transforms.normalization import Normalization, fit_normalization


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer(["Grab that yellow plushie", "Pull out a napkin"]))


@pytest.fixture(scope="module")
def normalization() -> Normalization:
    batch = fake_batch(TINY, 64, seed=1)
    return fit_normalization(batch["state"], batch["actions"], batch["action_mask"], delta_dims=range(7))


def test_an_observation_gives_what_the_training_batch_gave(tokenizer, normalization):
    batch = fake_batch(TINY, 3)
    trained = model_inputs(batch, normalization, tokenizer, TINY)
    served = model_inputs(
        {
            "images": {camera: images[1:2] for camera, images in batch["images"].items()},
            "state": batch["state"][1:2],
            "instruction": batch["instruction"][1:2],
        },
        normalization,
        tokenizer,
        TINY,
    )
    for name in ("state", "tokens", "token_mask"):
        np.testing.assert_array_equal(served[name][0], trained[name][1])
    for camera in TINY.cameras:
        np.testing.assert_array_equal(served["images"][camera][0], trained["images"][camera][1])
    assert "actions" not in served


def test_a_state_far_outside_is_limited(tokenizer, normalization):
    batch = fake_batch(TINY, 1)
    batch["state"][0, 3] = 1e4
    assert model_inputs(batch, normalization, tokenizer, TINY)["state"].max() == STATE_CLIP


def test_other_cameras_of_the_batch_are_left_out(tokenizer, normalization):
    batch = fake_batch(TINY, 1)
    batch["images"]["ceiling"] = batch["images"]["scene"]
    assert list(model_inputs(batch, normalization, tokenizer, TINY)["images"]) == list(TINY.cameras)


def _without_camera(batch):
    del batch["images"]["wrist"]


def _nan_state(batch):
    batch["state"][0, 2] = np.nan


def _nan_action(batch):
    batch["actions"][1, 4, 2] = np.inf


def _narrow_action(batch):
    batch["actions"] = batch["actions"][..., :7]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_camera, r"cameras: the model needs \['scene', 'wrist'\], got \['scene'\]; add \['wrist'\]"),
        (_nan_state, r"state: non-finite value nan at index \[0, 2\]"),
        (_nan_action, r"actions: non-finite value inf at index \[1, 4, 2\]"),
        (_narrow_action, "actions: the model was made for width 19, got 7"),
    ],
)
def test_bad_batches_are_refused(tokenizer, normalization, spoil, message):
    batch = fake_batch(TINY, 2)
    spoil(batch)
    with pytest.raises(ValueError, match=message):
        model_inputs(batch, normalization, tokenizer, TINY)


def test_an_instruction_that_is_no_text_is_refused(tokenizer, normalization):
    batch = fake_batch(TINY, 1) | {"instruction": [7]}
    with pytest.raises(TypeError, match="expected a str, got int 7"):
        model_inputs(batch, normalization, tokenizer, TINY)


def test_instructions_are_measured_before_anything_is_trained():
    tokenizer = Tokenizer(train_tokenizer(["go", LONG := "rinse the plate until no soap is left on it"]))
    model = dataclasses.replace(TINY, max_tokens=8)
    check_instructions(["go", ""], tokenizer, model)
    check_instructions([], tokenizer, model)
    needed = len(tokenizer.ids(prompt(LONG)))
    with pytest.raises(
        ValueError, match=rf"'rinse .*takes {needed} tokens, model.max_tokens is 8; .*max_tokens={needed} "
    ):
        check_instructions(["go", LONG], tokenizer, model)
    check_instructions(["go", LONG], tokenizer, dataclasses.replace(model, max_tokens=needed))
    with_state = dataclasses.replace(model, max_tokens=needed, state_input="text")
    with pytest.raises(ValueError, match="'rinse"):
        check_instructions([LONG], tokenizer, with_state)
