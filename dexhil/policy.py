"""A checkpoint that acts: observation in, chunk of absolute joint targets out. NumPy on both sides."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from dexhil.control.executor import RtcChoice
from dexhil.fit import PolicyInfo, check_kinematics
from dexhil.models.config import VLAConfig
from dexhil.models.inputs import fake_batch, model_inputs
from dexhil.models.lora import fuse_adapters
from dexhil.models.sampling import Prefix, Rtc, check_horizon, sample_actions
from dexhil.models.tokenizer import Tokenizer
from dexhil.models.trees import Params
from dexhil.names import check_known
from dexhil.schema import ARM_DOF, ActionChunk, Observation, SchemaError
from dexhil.training.checkpoints import CheckpointMeta, find_step, load_ema_params, load_meta
from dexhil.transforms.normalization import images_to_float


@functools.partial(jax.jit, static_argnames=("config", "num_steps", "rtc"))
def _sample(
    params: Params,
    config: VLAConfig,
    inputs: dict[str, Any],
    seed: jax.Array,
    prefix: Prefix | None,
    num_steps: int,
    rtc: Rtc,
) -> jax.Array:
    inputs = {**inputs, "images": images_to_float(inputs["images"])}
    return sample_actions(params, config, inputs, jax.random.key(seed), num_steps, prefix, rtc)


class Policy:
    """A trained VLA, compiled once for one robot.

    Args:
        params: of the model.
        meta: what the checkpoint says about itself.
        checkpoint_id: "<run>/<step>", as in `EpisodeMetadata.policy`.
        saved: when, ISO 8601.
        num_steps: Euler steps of the flow.
        rtc: real-time chunking, "guided" for any checkpoint, "trained" for one with `rtc_max_delay`, "auto" for the
            better of them, "none" to compile none.

    Attributes:
        max_delay: actions of a prefix at most.
    """

    def __init__(
        self,
        params: Params,
        meta: CheckpointMeta,
        *,
        checkpoint_id: str = "",
        saved: str = "",
        num_steps: int = 10,
        rtc: RtcChoice = "none",
    ) -> None:
        check_kinematics(meta.robot, meta.normalization.action_space)
        self.meta = meta
        self.checkpoint_id, self._saved = checkpoint_id, saved
        self._rtc, self.max_delay = choose_rtc(rtc, meta.model)
        self._params = jax.device_put(params, jax.local_devices()[0])
        self._tokenizer = Tokenizer(meta.tokenizer)
        self._num_steps = num_steps
        self._warm_up()

    @classmethod
    def load(cls, directory: str | Path, step: int | None = None, **options: Any) -> Policy:
        """The averaged (EMA) parameters of a checkpoint of the run in `directory`.

        Args:
            directory: the run's.
            step: the checkpoint's, by default the newest.
            **options: num_steps and rtc, as of the class.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
        """
        found = find_step(directory, step)
        meta = load_meta(directory, int(found.name))
        params = fuse_adapters(load_ema_params(directory, int(found.name)), meta.model)
        checkpoint_id = f"{found.parent.parent.name}/{found.name}"
        saved = datetime.datetime.fromtimestamp(found.stat().st_mtime, datetime.UTC).isoformat()
        return cls(params, meta, checkpoint_id=checkpoint_id, saved=saved, **options)

    @property
    def info(self) -> PolicyInfo:
        """What a rig or a client must know of this policy."""
        return PolicyInfo(
            **vars(self.meta.interface),
            chunk=self.meta.model.chunk,
            max_delay=self.max_delay,
            action_space=self.meta.normalization.action_space,
            checkpoint=self.checkpoint_id,
            saved=self._saved,
            normalization=self.meta.normalization.hash(),
        )

    def infer(
        self, observation: Observation, *, seed: int = 0, prefix: np.ndarray | None = None, delay: int = 0
    ) -> ActionChunk:
        """The next H actions [H, A], absolute joint targets in rad. The same seed and observation give the same chunk.

        Args:
            observation: of this robot.
            seed: of the flow's noise.
            prefix: [R, A] rad, what is left of the last chunk from this observation on; the chunk goes on from it.
            delay: so many of them will be executed before the new chunk is there; it begins with these. See `Executor`.

        Raises:
            SchemaError: the observation breaks the contract; names the field.
            ValueError: it is of another robot, or the prefix does not fit.
        """
        return ActionChunk(self._actions(self._batch(observation), seed, prefix, delay)[0], observation.timestamp)

    def _warm_up(self) -> None:
        batch = fake_batch(self.meta.model, 1, normalization=self.meta.normalization, instruction="")  # "" always fits
        self._actions(batch, seed=0)
        if self._rtc:
            self._actions(batch, seed=0, prefix=batch["actions"][0, : self.meta.model.chunk // 2])

    def _actions(
        self, batch: Mapping[str, Any], seed: int, prefix: np.ndarray | None = None, delay: int = 0
    ) -> np.ndarray:
        batch = {name: batch[name] for name in ("images", "state", "instruction")}
        self._check_prefix(prefix, delay)
        inputs = model_inputs(batch, self.meta.normalization, self._tokenizer, self.meta.model)
        on_device = jax.device_put((inputs, np.uint32(seed), self._prefix(prefix, delay, batch["state"])))
        rtc = self._rtc or "guided"
        normalised = _sample(self._params, self.meta.model.base(), *on_device, num_steps=self._num_steps, rtc=rtc)
        width = self.meta.normalization.recorded_dims["actions"]
        committed = np.zeros((len(normalised), 0, width), np.float32) if prefix is None else prefix[None, :delay]
        before = committed[:, -1] if delay else None
        rest = self.meta.normalization.unnormalize_actions(np.asarray(normalised)[:, delay:], batch["state"], before)
        raw = np.concatenate([committed, rest], axis=1)
        if not np.isfinite(raw).all():
            raise RuntimeError(f"policy {self.checkpoint_id!r}: non-finite action, do not execute it; load another")
        return raw

    def _prefix(self, prefix: np.ndarray | None, delay: int, state: np.ndarray) -> Prefix | None:
        if prefix is None and self._rtc != "trained":
            return None
        model, length = self.meta.model, 0 if prefix is None else len(prefix)
        actions = np.zeros((1, model.chunk, model.action_dim), np.float32)
        if prefix is not None:
            actions[:, :length] = self.meta.normalization.normalize_actions(prefix[None], state)
        return Prefix(actions, np.int32(length), np.int32(delay))  # pyright: ignore[reportArgumentType]

    def _check_prefix(self, prefix: np.ndarray | None, delay: int) -> None:
        if prefix is None:
            if delay:
                raise ValueError(f"delay: {delay} without a prefix; pass the actions that are executed meanwhile")
            return
        if not self._rtc:
            raise ValueError("prefix: this policy was loaded without real-time chunking; load it with rtc='auto'")
        width = self.meta.normalization.recorded_dims["actions"]
        if prefix.ndim != 2 or prefix.shape[1] != width or not np.isfinite(prefix).all():
            raise ValueError(f"prefix: expected finite joint targets [R, {width}], got {list(prefix.shape)}")
        check_horizon(self.meta.model.chunk, len(prefix), delay)
        if delay > self.max_delay:
            raise ValueError(
                f"delay: {delay} actions, this policy was trained with at most {self.max_delay} given; load it with "
                "rtc='guided', or train with a larger train.rtc_max_delay"
            )

    def _batch(self, observation: Observation) -> dict[str, Any]:
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


def choose_rtc(rtc: str, model: VLAConfig) -> tuple[Rtc | None, int]:
    """What `rtc` of a Policy means for this model, and max. actions that a prefix may commit to. Raises ValueError."""
    check_known("rtc", rtc, get_args(RtcChoice))
    if rtc == "trained" and not model.rtc_max_delay:
        raise ValueError(
            f"rtc='trained': this checkpoint (variant {model.variant!r}) was not trained with a prefix; "
            "train a 'pi05' with train.rtc_max_delay, or use rtc='guided'"
        )
    if rtc == "none":
        return None, 0
    if rtc == "guided" or not model.rtc_max_delay:
        return "guided", model.chunk // 2
    return "trained", model.rtc_max_delay
