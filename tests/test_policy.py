"""A policy from a checkpoint: the same numbers as by hand, absolute joints out, bad observations refused."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.inputs import fake_batch, model_inputs
from dexhil.models.config import TINY
from dexhil.models.sampling import sample_actions
from dexhil.models.tokenizer import Tokenizer, train_tokenizer
from dexhil.models.vla import init_params
from dexhil.policy import Policy
from dexhil.schema import Observation, SchemaError
from dexhil.training.checkpoints import CheckpointError, CheckpointMeta, Checkpoints, load_ema_params
from dexhil.training.optimizer import OptimizerConfig, make_optimizer
from dexhil.training.step import init_state
from dexhil.transforms import fit_normalization, images_to_float

INSTRUCTIONS = ["Grab that yellow plushie", "Pull out a napkin"]


def random_params(seed: int) -> Any:
    """Of the right shapes, without the zeros of a fresh model that would hide inputs."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: init_params(TINY, key), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def meta() -> CheckpointMeta:
    batch = fake_batch(TINY, 64, seed=1)
    normalization = fit_normalization(batch["state"], batch["actions"], batch["action_mask"], delta_dims=range(7))
    return CheckpointMeta("fr3_dexhand021", 20.0, TINY, normalization, train_tokenizer(INSTRUCTIONS), {}, {})


@pytest.fixture(scope="module")
def run(tmp_path_factory, meta) -> Path:
    """A run whose averaged parameters differ from the last ones."""
    directory = tmp_path_factory.mktemp("runs") / "warm_up"
    state = init_state(random_params(0), make_optimizer(OptimizerConfig(steps=10, warmup_steps=1)))
    state = dataclasses.replace(state, ema_params=random_params(1), step=jnp.int32(40))
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(state, meta)
    return directory


@pytest.fixture(scope="module")
def policy(run) -> Policy:
    return Policy.load(run)


@pytest.fixture
def observation() -> Observation:
    rng = np.random.default_rng(3)
    return Observation(
        images={camera: rng.integers(0, 256, (24, 32, 3), np.uint8) for camera in TINY.cameras},
        q_arm=rng.uniform(-1, 1, 7).astype(np.float32),
        q_hand=rng.uniform(0, 1, 12).astype(np.float32),
        pose_base_ee=np.array([0.4, 0, 0.3, 1, 0, 0, 0], np.float32),
        timestamp=1.25,
        language_instruction=INSTRUCTIONS[0],
    )


def test_it_equals_the_averaged_parameters_by_hand(run, policy, meta, observation):
    state = np.concatenate([observation.q_arm, observation.q_hand])[None]
    batch = {
        "images": {camera: image[None] for camera, image in observation.images.items()},
        "state": state,
        "instruction": [observation.language_instruction],
    }
    inputs = model_inputs(batch, meta.normalization, Tokenizer(meta.tokenizer), TINY)
    inputs["images"] = images_to_float(inputs["images"])
    normalised = np.asarray(sample_actions(load_ema_params(run), TINY, inputs, jax.random.key(5)))
    expected = meta.normalization.actions.unnormalize(normalised)[0]
    expected[:, :7] += observation.q_arm
    chunk = policy.infer(observation, seed=5)
    np.testing.assert_allclose(chunk.actions, expected, atol=1e-5)
    assert chunk.actions.shape == (TINY.chunk, 19)
    assert chunk.actions.dtype == np.float32
    assert chunk.timestamp == 1.25


def test_seed_and_observation_decide_the_chunk(policy, observation):
    first = policy.infer(observation, seed=1).actions
    np.testing.assert_array_equal(first, policy.infer(observation, seed=1).actions)
    assert not np.allclose(first, policy.infer(observation, seed=2).actions)


@pytest.mark.parametrize(
    "change",
    [{"language_instruction": INSTRUCTIONS[1]}, {"q_hand": np.full(12, 0.9, np.float32)}],
    ids=["instruction", "state"],
)
def test_instruction_and_state_reach_the_actions(policy, observation, change):
    changed = dataclasses.replace(observation, **change)
    assert not np.array_equal(policy.infer(observation).actions, policy.infer(changed).actions)


def test_it_knows_where_it_comes_from(policy, meta):
    assert policy.checkpoint_id == "warm_up/40"
    assert policy.meta.normalization.hash() == meta.normalization.hash()


def _without_wrist(observation):
    return {"images": {"scene": observation.images["scene"]}}


def _float_image(observation):
    return {"images": {camera: image / 255 for camera, image in observation.images.items()}}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda o: {"q_arm": np.full(7, np.nan, np.float32)}, SchemaError, "q_arm: non-finite value nan"),
        (lambda o: {"q_arm": o.q_arm.astype(np.float64)}, SchemaError, "q_arm: expected dtype float32, got float64"),
        (lambda o: {"q_hand": np.zeros(16, np.float32)}, SchemaError, "'fr3_dexhand021' with 12 hand joints, got 16"),
        (lambda o: {"language_instruction": None}, SchemaError, "language_instruction: expected a str, got NoneType"),
        (_without_wrist, ValueError, r"the model needs \['scene', 'wrist'\], got \['scene'\]"),
        (_float_image, SchemaError, "image_scene: expected dtype uint8, got float64"),
    ],
)
def test_bad_observations_are_refused(policy, observation, change, error, message):
    with pytest.raises(error, match=message):
        policy.infer(dataclasses.replace(observation, **change(observation)))


def test_non_finite_actions_never_leave(meta):
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), random_params(0))
    with pytest.raises(RuntimeError, match="policy 'bad/1': non-finite action, do not execute it"):
        Policy(broken, meta, checkpoint_id="bad/1")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="expected the workdir of a training run"):
        Policy.load(tmp_path / "nothing")
