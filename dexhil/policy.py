"""A checkpoint that acts: observation in, chunk of absolute joint targets out. NumPy on both sides."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dexhil.inputs import fake_batch, model_inputs
from dexhil.models.config import VLAConfig
from dexhil.models.lora import fuse_adapters
from dexhil.models.tokenizer import Tokenizer
from dexhil.models.vla import sample_actions
from dexhil.schema import ARM_DOF, ActionChunk, Observation, SchemaError
from dexhil.training.checkpoints import CheckpointMeta, find_step, load_ema_params, load_meta
from dexhil.training.step import Params
from dexhil.transforms import images_to_float


@functools.partial(jax.jit, static_argnames=("config", "num_steps"))
def _sample(params: Params, config: VLAConfig, inputs: dict[str, Any], seed: jax.Array, num_steps: int) -> jax.Array:
    inputs = {**inputs, "images": images_to_float(inputs["images"])}
    return sample_actions(params, config, inputs, jax.random.key(seed), num_steps)


class Policy:
    """A trained VLA, compiled once for one robot.

    meta: what the checkpoint says about itself. checkpoint_id: "<run>/<step>", as in `EpisodeMetadata.policy`.
    num_steps: Euler steps of the flow.
    """

    def __init__(self, params: Params, meta: CheckpointMeta, *, checkpoint_id: str = "", num_steps: int = 10) -> None:
        self.meta = meta
        self.checkpoint_id = checkpoint_id
        self._params = jax.device_put(params, jax.local_devices()[0])
        self._tokenizer = Tokenizer(meta.tokenizer)
        self._num_steps = num_steps
        # Compiles now, so that the first real step is not late.
        self._actions(fake_batch(meta.model, 1, normalization=meta.normalization), seed=0)

    @classmethod
    def load(cls, directory: str | Path, step: int | None = None, *, num_steps: int = 10) -> Policy:
        """The averaged (EMA) parameters of the newest checkpoint, or of `step`, of the run in `directory`.

        Adapters are fused into the weights that they adapt. Raises CheckpointError where it is missing or damaged.
        """
        found = find_step(directory, step)
        meta = load_meta(directory, int(found.name))
        params = fuse_adapters(load_ema_params(directory, int(found.name)), meta.model)
        checkpoint_id = f"{found.parent.parent.name}/{found.name}"
        return cls(params, meta, checkpoint_id=checkpoint_id, num_steps=num_steps)

    def infer(self, observation: Observation, *, seed: int = 0) -> ActionChunk:
        """The next H actions [H, A], absolute joint targets in rad. The same seed and observation give the same chunk.

        Raises SchemaError or ValueError, naming the field, on an observation that is not of this robot or not finite.
        """
        return ActionChunk(self._actions(self._batch(observation), seed)[0], observation.timestamp)

    def _actions(self, batch: Mapping[str, Any], seed: int) -> np.ndarray:
        """Raw absolute actions [B, H, A] for a loader batch."""
        batch = {name: batch[name] for name in ("images", "state", "instruction")}
        inputs = model_inputs(batch, self.meta.normalization, self._tokenizer, self.meta.model)
        on_device = jax.device_put((inputs, np.uint32(seed)))
        actions = np.asarray(_sample(self._params, self.meta.model, *on_device, num_steps=self._num_steps))
        raw = self.meta.normalization.unnormalize_actions(actions, batch["state"])
        if not np.isfinite(raw).all():
            raise RuntimeError(
                f"policy {self.checkpoint_id!r}: non-finite action, do not execute it; load another step"
            )
        return raw

    def _batch(self, observation: Observation) -> dict[str, Any]:
        """The observation as a loader batch of one."""
        observation.validate()
        hand = self.meta.normalization.recorded_dims["state"] - ARM_DOF
        if len(observation.q_hand) != hand:
            raise SchemaError(
                f"q_hand: this policy was trained on {self.meta.robot!r} with {hand} hand joints, "
                f"got {len(observation.q_hand)}; use a policy of this robot"
            )
        return {
            "images": {camera: image[None] for camera, image in observation.images.items()},
            "state": np.concatenate([observation.q_arm, observation.q_hand])[None],
            "instruction": [observation.language_instruction],
        }
