"""The RLDS schema of recorded episodes as TFDS features. Source: docs/guides/data.md."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.tensorflow_cpu import tensorflow_datasets
from dexhil.episodes.format import EncodedStep
from dexhil.schema import ARM_DOF, EpisodeMetadata

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

METADATA = tuple(field.name for field in dataclasses.fields(EpisodeMetadata))
_NUMBERS = {  # all others are text
    "success": np.int8,
    "round": np.int32,
    "seed": np.int64,
    "takeovers": np.int32,
    "max_takeover_jump": np.float32,
}


def rlds_features(image_shapes: dict[str, tuple[int, int, int]], action_dim: int) -> tfds.features.FeaturesDict:
    """Features of a data set. Examples hold floats as float32, so the float64 timestamp is stored as bytes."""
    f = tensorflow_datasets().features
    observation = {f"image_{c}": f.Image(shape=s, encoding_format="jpeg") for c, s in sorted(image_shapes.items())}
    observation |= {
        "q_arm": f.Tensor(shape=(ARM_DOF,), dtype=np.float32),
        "q_hand": f.Tensor(shape=(action_dim - ARM_DOF,), dtype=np.float32),
        "pose_base_ee": f.Tensor(shape=(7,), dtype=np.float32),
        "timestamp": f.Tensor(shape=(), dtype=np.float64, encoding=f.Encoding.BYTES),
    }
    flags = ("is_first", "is_last", "is_terminal", "is_intervention", "is_commanded")
    step = {name: f.Scalar(np.bool_) for name in flags} | {
        "reward": f.Scalar(np.float32),
        "discount": f.Scalar(np.float32),
        "language_instruction": f.Text(),
        "action": f.Tensor(shape=(action_dim,), dtype=np.float32),
        "policy_action": f.Tensor(shape=(action_dim,), dtype=np.float32),
        "observation": observation,
    }
    metadata = {name: f.Scalar(_NUMBERS[name]) if name in _NUMBERS else f.Text() for name in METADATA}
    return f.FeaturesDict({"steps": f.Dataset(step), "episode_metadata": metadata})


def rlds_example(steps: list[EncodedStep], metadata: EpisodeMetadata) -> dict[str, Any]:
    """One episode as a TFDS example; the images stay the recorded JPEG bytes."""
    last = len(steps) - 1
    return {
        "steps": [
            {
                "is_first": i == 0,
                "is_last": i == last,
                "is_terminal": i == last and metadata.success == 1,
                "is_intervention": step.is_intervention,
                "is_commanded": step.is_commanded,
                "reward": step.reward,
                "discount": step.discount,
                "language_instruction": step.language_instruction,
                "action": step.arrays["action"],
                "policy_action": step.arrays["policy_action"],
                "observation": {f"image_{camera}": data for camera, data in step.images.items()}
                | {name: step.arrays[name] for name in ("q_arm", "q_hand", "pose_base_ee")}
                | {"timestamp": np.float64(step.timestamp)},
            }
            for i, step in enumerate(steps)
        ],
        "episode_metadata": {name: getattr(metadata, name) for name in METADATA},
    }
