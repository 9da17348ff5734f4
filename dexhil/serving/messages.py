"""What the messages say: the server's facts, an observation as a request, actions as an answer. No JAX.

A request is a map with the keys

    images {camera: uint8 [H, W, 3] RGB}    or flat, one key observation/image_<camera> each
    state  float [S] rad, arm first         or observation/state
    prompt text
    seed   int, 0 unless given: the same request and seed give the same answer
    prefix float [R, A], delay int, both optional: real-time chunking, as of `Policy.infer`

an answer one with `actions` float32 [H, A], absolute joint targets in rad, and `server_timing` in ms. On connecting the
server sends `PolicyInfo`.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dexhil.names import check_known
from dexhil.schema import ARM_DOF, Observation
from dexhil.transforms.normalization import resize_image

PROTOCOL = 1
MAX_IMAGE_SIDE = 4096  # pixels; resizing takes memory in proportion
REQUIRED = ("images", "state", "prompt")
_FLAT_STATE = "observation/state"
_FLAT_IMAGE = "observation/image_"
_NO_POSE = np.array([0, 0, 0, 1, 0, 0, 0], np.float32)  # policies act from joint angles: the pose does not travel


class MessageError(ValueError):
    """A message that does not fit the protocol; names the key, what was expected and what to do."""


@dataclasses.dataclass(frozen=True)
class PolicyInfo:
    """What a client must know of the policy behind a server.

    robot: spec name; control_hz: rate of the actions in a chunk; cameras, image_size: what the policy looks at, square
    state_dim: S; chunk, action_dim: H and A of an answer, absolute joint targets in rad; action_names: of the A joints
    max_delay: actions that its real-time chunking bridges at most, 0 without it
    action_space: how the policy works inside; checkpoint: "<run>/<step>"; saved: when, ISO 8601
    normalization: hash of the norm statistics
    """

    robot: str
    control_hz: float
    cameras: tuple[str, ...]
    image_size: int
    state_dim: int
    chunk: int
    action_dim: int
    action_names: tuple[str, ...]
    max_delay: int
    action_space: str
    checkpoint: str
    saved: str
    normalization: str
    protocol: int = PROTOCOL

    def to_message(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_message(cls, message: Any) -> PolicyInfo:
        """Raises MessageError where the server is none of ours, or of another version."""
        fields = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(message, Mapping) or not set(fields) <= set(message):
            raise MessageError(
                f"metadata: expected {fields}, got {str(message)[:200]}; is this a DexHiL policy server?"
            )
        if message["protocol"] != PROTOCOL:
            raise MessageError(f"protocol: the server speaks {message['protocol']}, this client {PROTOCOL}; update one")
        lists = {name: tuple(message[name]) for name in ("cameras", "action_names")}
        return cls(**{**{name: message[name] for name in fields}, **lists})


def _read_seed(value: Any, _: PolicyInfo) -> int:
    return _read_int(value, 2**32 - 1)


def _read_delay(value: Any, info: PolicyInfo) -> int:
    return _read_int(value, info.chunk)


def _read_int(value: Any, most: int) -> int:
    number = operator.index(value)
    if isinstance(value, bool) or not 0 <= number <= most:
        raise ValueError(f"expected an int from 0 to {most}")
    return number


def _read_prefix(value: Any, info: PolicyInfo) -> np.ndarray:
    wanted = f"expected finite floats [1 to {info.chunk}, {info.action_dim}]"
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.ndim != 2:
        raise ValueError(wanted)
    if not 1 <= len(value) <= info.chunk or value.shape[1] != info.action_dim or not np.isfinite(value).all():
        raise ValueError(wanted)
    return value.astype(np.float32)


# What a request may carry besides REQUIRED: keywords of Policy.infer.
OPTIONS: dict[str, Callable[[Any, PolicyInfo], Any]] = {
    "seed": _read_seed,
    "prefix": _read_prefix,
    "delay": _read_delay,
}


def write_request(observation: Observation, info: PolicyInfo, **options: Any) -> dict[str, Any]:
    """The request for an observation: the policy's cameras only, at its resolution.

    Resizing here saves the way and changes no pixel: the policy would do the same. Raises SchemaError on an observation
    that breaks the contract, MessageError on a missing camera.
    """
    observation.validate()
    _check_cameras(observation.images, info)
    return {
        "images": {camera: resize_image(observation.images[camera], info.image_size) for camera in info.cameras},
        "state": np.concatenate([observation.q_arm, observation.q_hand]),
        "prompt": observation.language_instruction,
        **options,
    }


def read_request(message: Any, info: PolicyInfo) -> tuple[Observation, dict[str, Any]]:
    """A request as an observation and keywords of Policy.infer. Raises MessageError or SchemaError."""
    fields = _folded(message)
    for name in fields:
        check_known("request key", name, (*REQUIRED, *OPTIONS))
    missing = [name for name in REQUIRED if name not in fields]
    if missing:
        raise MessageError(f"request: expected {list(REQUIRED)}, got {sorted(fields)}; add {missing}")
    options = {name: _read_option(name, value, info) for name, value in fields.items() if name in OPTIONS}
    return _read_observation(fields, info), {"seed": 0, **options}


def read_actions(message: Any, info: PolicyInfo) -> np.ndarray:
    """The actions float32 [H, A] of an answer, writable. Raises MessageError."""
    actions = message.get("actions") if isinstance(message, dict) else None
    shape = (info.chunk, info.action_dim)
    if not isinstance(actions, np.ndarray) or actions.dtype != np.float32 or actions.shape != shape:
        got = f"{actions.dtype} {actions.shape}" if isinstance(actions, np.ndarray) else str(message)[:80]
        raise MessageError(f"actions: expected float32 {shape} from the server, got {got}")
    if not np.isfinite(actions).all():
        raise MessageError("actions: non-finite value from the server; do not execute them")
    return actions.copy()


def _folded(message: Any) -> dict[str, Any]:
    """The request's map with its flat keys folded into `images` and `state`."""
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise MessageError(f"request: expected a map with text keys {list(REQUIRED)}, got {str(message)[:80]}")
    fields: dict[str, Any] = {}
    images: dict[str, Any] = {}
    for key, value in message.items():
        if key.startswith(_FLAT_IMAGE):
            images[key.removeprefix(_FLAT_IMAGE)] = value
            continue
        name = "state" if key == _FLAT_STATE else key
        if name in fields:
            raise MessageError(f"request: {name} both flat and not; use one spelling")
        fields[name] = value
    if images and "images" in fields:
        raise MessageError(f"request: images both in a map and as {_FLAT_IMAGE}…; use one spelling")
    return fields | ({"images": images} if images else {})


def _read_option(name: str, value: Any, info: PolicyInfo) -> Any:
    try:
        return OPTIONS[name](value, info)
    except (TypeError, ValueError) as error:
        got = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)[:80]
        raise MessageError(f"{name}: {error}, got {got}") from None


def _read_observation(fields: Mapping[str, Any], info: PolicyInfo) -> Observation:
    images, state = fields["images"], _read_state(fields["state"], info)
    if not isinstance(images, dict):
        raise MessageError(f"images: expected a map from camera to image, got {type(images).__name__}")
    for camera in images:
        check_known("camera", camera, info.cameras)
    _check_cameras(images, info)
    observation = Observation(images, state[:ARM_DOF], state[ARM_DOF:], _NO_POSE, 0.0, fields["prompt"])
    observation.validate()
    for camera, image in images.items():
        if not all(1 <= side <= MAX_IMAGE_SIDE for side in image.shape[:2]):
            raise MessageError(f"image_{camera}: expected 1 to {MAX_IMAGE_SIDE} pixels a side, got {image.shape[:2]}")
    return observation


def _read_state(state: Any, info: PolicyInfo) -> np.ndarray:
    """float32 [S]; robots often report float64."""
    if not isinstance(state, np.ndarray) or state.dtype.kind != "f" or state.shape != (info.state_dim,):
        got = f"{state.dtype} {list(state.shape)}" if isinstance(state, np.ndarray) else type(state).__name__
        raise MessageError(
            f"state: expected a float array [{info.state_dim}], the joints of {info.robot!r}, got {got}; "
            "send q_arm and q_hand in one array, or use a policy of this robot"
        )
    with np.errstate(over="ignore"):  # becomes infinite and is refused as such
        return state.astype(np.float32)


def _check_cameras(images: Mapping[str, Any], info: PolicyInfo) -> None:
    missing = [camera for camera in info.cameras if camera not in images]
    if missing:
        raise MessageError(f"images: the policy needs {list(info.cameras)}, got {sorted(images)}; add {missing}")
