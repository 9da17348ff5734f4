"""The contract between rigs, policies, the recorder and data sets. NumPy only: a robot PC loads it without JAX.

Conventions, said once: SI units, radians, float32 unless stated; poses are [x y z m, qw qx qy qz]; an action is
`[q_arm target (7), q_hand target (m)]`, absolute joint angles, `A = 7 + m`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

ARM_DOF = 7

Source = Literal["offline", "online"]


class SchemaError(ValueError):
    """A value that does not fit the contract; the message names it, what was expected and what to do."""


def _check_array(name: str, value: np.ndarray, shape: tuple[int | None, ...], dtype: type, finite: bool = True) -> None:
    """Raises SchemaError unless `value` has `dtype` and `shape` (None matches any size) and, if asked, is finite."""
    if not isinstance(value, np.ndarray):
        raise SchemaError(f"{name}: expected a numpy array of {np.dtype(dtype)}, got {type(value).__name__}")
    if value.dtype != dtype:
        raise SchemaError(f"{name}: expected dtype {np.dtype(dtype)}, got {value.dtype}; convert it with .astype")
    matches = len(value.shape) == len(shape) and all(w in (None, g) for g, w in zip(value.shape, shape, strict=True))
    if not matches:
        wanted = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
        raise SchemaError(f"{name}: expected shape {wanted}, got {list(value.shape)}")
    if finite and value.dtype.kind == "f" and not np.isfinite(value).all():
        bad = np.argwhere(~np.isfinite(value))[0].tolist()
        raise SchemaError(f"{name}: non-finite value {value[tuple(bad)]} at index {bad}; readings must be finite")


def _check_image(name: str, image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray):
        raise SchemaError(f"{name}: expected a numpy array of uint8, got {type(image).__name__}")
    channels = image.shape[-1] if image.ndim == 3 else 0
    if image.dtype == np.uint8 and channels == 3 and image.size:
        return
    if image.dtype.kind == "f":
        advice = "of floats in 0..1 make (255 * image).round().astype(np.uint8)"
    elif image.dtype != np.uint8:
        advice = "of values in 0..255 make image.astype(np.uint8)"
    elif image.ndim == 2 or channels == 1:
        advice = "of a grey image make np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=-1)"
    elif channels == 4:
        advice = "leave the transparency out: image[..., :3]"
    elif image.ndim == 3 and image.shape[0] == 3:
        advice = "put the channels last: np.moveaxis(image, 0, -1)"
    else:
        advice = "one image per camera, of 1 pixel or more"
    raise SchemaError(f"{name}: expected uint8 [H, W, 3] RGB, got {image.dtype} {list(image.shape)}; {advice}")


@dataclasses.dataclass(frozen=True)
class Observation:
    """What a policy sees at one step. No object state, ever.

    Attributes:
        images: camera name -> uint8 [H, W, 3] RGB.
        q_arm: [7] rad.
        q_hand: [m] rad, actuated joints.
        pose_base_ee: [7], the end effector in the base frame.
        timestamp: s since the episode began.
        language_instruction: what to do, in words.
    """

    images: dict[str, np.ndarray]
    q_arm: np.ndarray
    q_hand: np.ndarray
    pose_base_ee: np.ndarray
    timestamp: float
    language_instruction: str

    def validate(self) -> None:
        """Raises SchemaError on the first field that does not fit."""
        if not isinstance(self.language_instruction, str):
            kind = type(self.language_instruction).__name__
            raise SchemaError(f"language_instruction: expected a str, got {kind} {self.language_instruction!r}")
        for camera, image in self.images.items():
            _check_image(f"image_{camera}", image)
        _check_array("q_arm", self.q_arm, (ARM_DOF,), np.float32)
        _check_array("q_hand", self.q_hand, (None,), np.float32)
        _check_array("pose_base_ee", self.pose_base_ee, (7,), np.float32)
        if not np.isfinite(self.timestamp):
            raise SchemaError(f"timestamp: expected finite seconds, got {self.timestamp}")


@dataclasses.dataclass(frozen=True)
class ActionChunk:
    """The next H actions a policy proposes.

    Attributes:
        actions: float32 [H, A] rad; row i is due at `timestamp + i / control_hz`.
        timestamp: s, of the observation.
    """

    actions: np.ndarray
    timestamp: float


@dataclasses.dataclass(frozen=True)
class Step:
    """One recorded control step.

    Attributes:
        observation: what was seen.
        action: [A] rad, the command after safety limits.
        policy_action: [A] rad, what the policy asked for, NaN where nobody asked.
        is_intervention: a person's command was executed, be it for the arm or the hand alone (a partial takeover:
            `action` is then the person's part and the policy's).
        is_commanded: policy or person commanded; False while the robot holds, waits for a plan, or was stopped. Such
            steps are recorded, and nobody learns from them.
    """

    observation: Observation
    action: np.ndarray
    policy_action: np.ndarray
    is_intervention: bool
    reward: float = 0.0
    discount: float = 1.0
    is_commanded: bool = True

    def validate(self) -> None:
        """Raises SchemaError on the first field that does not fit."""
        self.observation.validate()
        width = ARM_DOF + len(self.observation.q_hand)
        _check_array("action", self.action, (width,), np.float32)
        _check_array("policy_action", self.policy_action, (width,), np.float32, finite=False)


@dataclasses.dataclass(frozen=True)
class EpisodeMetadata:
    """Facts of a whole episode (docs/guides/data.md).

    Attributes:
        success: 1, 0, or -1 for not known.
        max_takeover_jump: rad.
    """

    episode_id: str
    task: str
    success: int
    source: Source
    round: int
    policy: str
    operator: str
    robot: str
    seed: int
    takeovers: int
    max_takeover_jump: float

    def validate(self) -> None:
        """Raises SchemaError on the first field that does not fit."""
        for field in ("episode_id", "task", "policy", "operator", "robot"):
            if not isinstance(getattr(self, field), str):
                raise SchemaError(f"{field}: expected a str, got {getattr(self, field)!r}")
        if self.success not in (-1, 0, 1):
            raise SchemaError(f"success: expected 1, 0 or -1 (not known), got {self.success!r}")
        if self.source not in ("offline", "online"):
            raise SchemaError(f"source: expected 'offline' or 'online', got {self.source!r}")


@dataclasses.dataclass(frozen=True)
class Episode:
    """Steps in order and the facts about the whole."""

    steps: Sequence[Step]
    metadata: EpisodeMetadata
