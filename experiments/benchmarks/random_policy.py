"""Policies of random numbers, and observations for them: no training run and no data."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dexhil.models.config import VLAConfig
from dexhil.models.inputs import fake_batch
from dexhil.models.tokenizer import train_tokenizer
from dexhil.models.vla import abstract_params
from dexhil.policy import Policy, RtcChoice
from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.schema import ARM_DOF, Observation
from dexhil.training.checkpoints import CheckpointMeta, Checkpoints
from dexhil.training.config import OptimizerConfig
from dexhil.training.optimizer import make_optimizer
from dexhil.training.step import init_state
from dexhil.transforms.normalization import fit_normalization
from experiments.benchmarks.measure import random_params

CAMERA_SIDE = 224  # pixels that a rig delivers; the policy resizes them


def make_meta(model: VLAConfig) -> CheckpointMeta:
    """A checkpoint's facts, made of random data."""
    batch = fake_batch(model, 256 if model.image_size < 100 else 8)
    normalization = fit_normalization(batch["state"], batch["actions"], batch["action_mask"], delta_dims=range(ARM_DOF))
    tokenizer = train_tokenizer(batch["instruction"])
    return CheckpointMeta("fr3_dexhand021", 20.0, model, normalization, tokenizer, {}, {}, FR3_DEXHAND021.joint_names)


def make_policy(meta: CheckpointMeta, *, num_steps: int = 10, rtc: RtcChoice = "none") -> Policy:
    """An untrained policy, in the dtype of its activations."""
    return Policy(random_params(meta.model.base(), meta.model.dtype), meta, num_steps=num_steps, rtc=rtc)


def save_random_checkpoint(run: Path, model: VLAConfig) -> None:
    """A run whose policy heeds all that it is shown: a fresh model's zeros would hide it."""
    rng, shapes = np.random.default_rng(0), abstract_params(model)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype), shapes)
    state = init_state(params, make_optimizer(OptimizerConfig(steps=1, warmup_steps=0)))
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state, make_meta(model))


def random_observation(rng: np.random.Generator, meta: CheckpointMeta) -> Observation:
    """Images, joints and an instruction, no two the same."""
    side, hand_dof = (CAMERA_SIDE, CAMERA_SIDE, 3), meta.normalization.recorded_dims["state"] - ARM_DOF
    return Observation(
        images={camera: rng.integers(0, 256, side, np.uint8) for camera in meta.model.cameras},
        q_arm=rng.uniform(-1, 1, ARM_DOF).astype(np.float32),
        q_hand=rng.uniform(0, 1, hand_dof).astype(np.float32),
        pose_base_ee=np.array([0.5, 0, 0.3, 1, 0, 0, 0], np.float32),
        timestamp=0.0,
        language_instruction=f"Grab that yellow plushie {rng.integers(10)}",
    )
