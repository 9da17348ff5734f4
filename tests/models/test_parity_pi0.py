"""PI0ForConditionalGeneration of transformers and ours on the same file: velocity, loss, samples, wrong masks.

Their time runs from data (0) to noise (1), ours from noise to data.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.models import sampling, vla
from dexhil.models.layers import time_embedding
from dexhil.models.weights.load import load_params
from tests.models import reference
from tests.models.huggingface import SMALL_PI0, pi0, torch, torch_inputs
from tests.models.pure import denoise, encode_prefix, flow_errors

STEPS = 10


@pytest.fixture(scope="module")
def model():
    return pi0(SMALL_PI0)


@pytest.fixture(scope="module")
def params(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pi0")
    model.save_pretrained(folder)
    return load_params(folder, SMALL_PI0)


@pytest.fixture(scope="module")
def inputs(random_inputs):
    return random_inputs(SMALL_PI0)


@pytest.fixture(scope="module")
def draws():
    """Noise [B, H, A], and times of theirs [B] that survive 1 - t exactly."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(2, SMALL_PI0.chunk, SMALL_PI0.action_dim)).astype(np.float32)
    return jnp.asarray(noise), jnp.array([0.25, 0.8125])


def share_time_embedding(model, monkeypatch):
    """Two correct float32 embeddings differ by 1e-4 where the angle is 1570 rad: both then take ours."""

    def shared(time):
        return torch.from_numpy(
            np.array(time_embedding(jnp.asarray(time.numpy())[:, None], SMALL_PI0.expert.width))[:, 0]
        )

    monkeypatch.setattr(model.embed_action_time.sinusoid_embeds, "forward", shared)


def call(model, inputs, **more):
    given = torch_inputs(SMALL_PI0, inputs)
    cameras = torch.ones(given["pixel_values"].shape[:2], dtype=torch.bool)
    more = {name: torch.from_numpy(np.array(value)) for name, value in more.items()}
    state = torch.from_numpy(np.array(inputs["state"]))
    with torch.no_grad():
        return model(state=state, pixel_attention_mask=cameras, **given, **more)


def velocity(params, config, inputs, noise, t):
    """Ours, at `noise` as x_t; t is ours."""
    kv, mask = encode_prefix(params, config, inputs["images"], inputs["tokens"], inputs["token_mask"])
    return denoise(params, config, kv, mask, noise, t, inputs["state"])


jitted_velocity = jax.jit(velocity, static_argnums=1)


def test_velocity(model, params, inputs, draws, monkeypatch):
    noise, time = draws
    ours = jitted_velocity(params, SMALL_PI0, inputs, noise, 1 - time)
    theirs = call(model, inputs, noise=noise, timestep=time).logits.numpy()
    assert np.abs(theirs).mean() > 0.1
    np.testing.assert_allclose(ours, -theirs, atol=5e-4, rtol=0)
    share_time_embedding(model, monkeypatch)
    theirs = call(model, inputs, noise=noise, timestep=time).logits.numpy()
    np.testing.assert_allclose(ours, -theirs, atol=2e-5, rtol=0)


def test_loss(model, params, inputs, draws, monkeypatch):
    noise, time = draws
    share_time_embedding(model, monkeypatch)
    theirs = call(model, inputs, noise=noise, timestep=time, actions=inputs["actions"]).loss
    errors = jax.jit(flow_errors, static_argnums=1)(params, SMALL_PI0, inputs, noise[:, None], (1 - time)[:, None])
    assert float(errors.mean()) == pytest.approx(float(theirs), abs=1e-5)


def test_ten_step_sample(model, params, inputs):
    key = jax.random.key(4)
    noise = jax.random.normal(key, (2, SMALL_PI0.chunk, SMALL_PI0.padded_action_dim))
    ours = sampling.sample_actions(params, SMALL_PI0, inputs, key, num_steps=STEPS)
    given = torch_inputs(SMALL_PI0, inputs)
    given.pop("position_ids")
    theirs = model.sample_actions(
        state=torch.from_numpy(np.array(inputs["state"])),
        noise=torch.from_numpy(np.array(noise)),
        pixel_attention_mask=torch.ones(given["pixel_values"].shape[:2], dtype=torch.bool),
        num_steps=STEPS,
        **given,
    )
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-4, rtol=0)


MUTATIONS = {
    "the state sees the actions": lambda mask: mask.at[0].set(True),
    "the actions do not see the state": lambda mask: mask.at[1:, 0].set(False),
    "the actions are causal": lambda mask: mask & np.tri(len(mask), dtype=bool),
}


def test_a_mutated_mask_is_noticed(model, params, inputs, draws, monkeypatch):
    noise, time = draws
    mask = vla.suffix_mask(SMALL_PI0)

    @jax.jit
    def masked_velocity(mask):
        monkeypatch.setattr(vla, "suffix_mask", lambda config: mask)
        return velocity(params, SMALL_PI0, inputs, noise, 1 - time)

    theirs = call(model, inputs, noise=noise, timestep=time).logits.numpy()
    np.testing.assert_allclose(masked_velocity(mask), -theirs, atol=5e-4, rtol=0)
    changes = {name: np.abs(masked_velocity(change(mask)) + theirs).max() for name, change in MUTATIONS.items()}
    assert min(changes.values()) > 1e-2, changes


def test_a_state_token_in_the_prefix_block_is_noticed(model, params, inputs, draws):
    """The joint pass with the state's block moved, which the two passes cannot express."""
    noise, time = draws
    t = jnp.broadcast_to(time[:, None], (2, SMALL_PI0.chunk))
    joint = jax.jit(reference.joint_velocity, static_argnums=(1, 5))
    theirs = -call(model, inputs, noise=noise, timestep=time).logits.numpy()
    np.testing.assert_allclose(joint(params, SMALL_PI0, inputs, noise, t, 1), theirs, atol=5e-4, rtol=0)
    assert np.abs(joint(params, SMALL_PI0, inputs, noise, t, 0) - theirs).max() > 1e-2
