"""What the messages say: an observation as a request, actions as an answer. No JAX.

A request is a map with the keys

    images {camera: uint8 [H, W, 3] RGB}, or floats in 0..1 as openpi's server reads them; more cameras are ignored
    state  float [S] rad, arm first
    prompt text
    seed   int, 0 unless given: the same request and seed give the same answer
    prefix float [R, A], delay int, both optional: real-time chunking, as of `Policy.infer`

an answer one with `actions` float32 [H, A], absolute joint targets in rad, and `server_timing` in ms. On connecting the
server sends `fit.PolicyInfo`.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dexhil.fit import MessageError, PolicyInfo
from dexhil.names import check_known
from dexhil.schema import ARM_DOF, Observation
from dexhil.transforms.normalization import resize_image

MAX_IMAGE_SIDE = 4096  # pixels; resizing takes memory in proportion
REQUIRED = ("images", "state", "prompt")
_NO_POSE = np.array([0, 0, 0, 1, 0, 0, 0], np.float32)  # policies act from joint angles: the pose does not travel


def _read_int(value: Any, highest: int) -> int:
    number = operator.index(value)
    if isinstance(value, bool) or not 0 <= number <= highest:
        raise ValueError(f"expected an int from 0 to {highest}")
    return number


def _read_prefix(value: Any, info: PolicyInfo) -> np.ndarray:
    floats = isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim == 2
    if not floats or not 1 <= len(value) <= info.chunk or value.shape[1] != info.action_dim:
        raise ValueError(f"expected floats [1 to {info.chunk}, {info.action_dim}]")
    if not np.isfinite(value).all():
        raise ValueError("expected finite floats")
    return value.astype(np.float32)


# What a request may carry besides REQUIRED: keywords of Policy.infer.
OPTIONS: dict[str, Callable[[Any, PolicyInfo], Any]] = {
    "seed": lambda value, _: _read_int(value, 2**32 - 1),
    "prefix": _read_prefix,
    "delay": lambda value, info: _read_int(value, info.chunk),
}


def write_request(observation: Observation, info: PolicyInfo, **options: Any) -> dict[str, Any]:
    """The request for an observation: the policy's cameras only, at its resolution, to which it would resize too.

    Raises:
        SchemaError: the observation breaks the contract.
        MessageError: a camera is missing.
    """
    observation.validate()
    images = _chosen(observation.images, info)
    return {
        "images": {camera: resize_image(image, info.image_size) for camera, image in images.items()},
        "state": np.concatenate([observation.q_arm, observation.q_hand]),
        "prompt": observation.language_instruction,
        **options,
    }


def read_request(message: Any, info: PolicyInfo) -> tuple[Observation, dict[str, Any]]:
    """A request as an observation and keywords of Policy.infer.

    Raises:
        MessageError: a key is missing or of another kind.
        SchemaError: a value breaks the contract.
    """
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise MessageError(f"request: expected a map with text keys {list(REQUIRED)}, got {str(message)[:80]}")
    for name in message:
        check_known("request key", name, (*REQUIRED, *OPTIONS))
    if missing := [name for name in REQUIRED if name not in message]:
        raise MessageError(f"request: expected {list(REQUIRED)}, got {sorted(message)}; add {missing}")
    options = {name: _read_option(name, value, info) for name, value in message.items() if name in OPTIONS}
    return _read_observation(message, info), {"seed": 0, **options}


def read_actions(message: Any, info: PolicyInfo) -> np.ndarray:
    """The actions float32 [H, A] of an answer, writable.

    Raises:
        MessageError: it holds no such actions.
    """
    actions = message.get("actions") if isinstance(message, dict) else None
    shape = (info.chunk, info.action_dim)
    if not isinstance(actions, np.ndarray) or actions.dtype != np.float32 or actions.shape != shape:
        got = _described(message if actions is None else actions)
        raise MessageError(f"actions: expected float32 {shape} from the server, got {got}")
    if not np.isfinite(actions).all():
        raise MessageError("actions: non-finite value from the server; do not execute them")
    return actions.copy()


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)[:80]


def _read_option(name: str, value: Any, info: PolicyInfo) -> Any:
    try:
        return OPTIONS[name](value, info)
    except (TypeError, ValueError) as error:
        raise MessageError(f"{name}: {error}, got {_described(value)}") from None


def _read_observation(fields: Mapping[str, Any], info: PolicyInfo) -> Observation:
    if not isinstance(fields["images"], dict):
        raise MessageError(f"images: expected a map from camera to image, got {type(fields['images']).__name__}")
    images = {camera: _as_bytes(camera, image) for camera, image in _chosen(fields["images"], info).items()}
    state = _read_state(fields["state"], info)
    observation = Observation(images, state[:ARM_DOF], state[ARM_DOF:], _NO_POSE, 0.0, fields["prompt"])
    observation.validate()
    return observation


def _as_bytes(camera: str, image: Any) -> Any:
    if not isinstance(image, np.ndarray):
        return image
    if max(image.shape, default=0) > MAX_IMAGE_SIDE:
        raise MessageError(f"image_{camera}: expected at most {MAX_IMAGE_SIDE} pixels a side, got {list(image.shape)}")
    if image.dtype.kind != "f" or not image.size:
        return image
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # NaN as well
        raise MessageError(
            f"image_{camera}: floats must lie in 0..1, got {low:g} to {high:g}; scale them, or send uint8: "
            "image.round().astype(np.uint8) of values in 0..255"
        )
    return np.rint(255 * image).astype(np.uint8)


def _read_state(state: Any, info: PolicyInfo) -> np.ndarray:
    if not isinstance(state, np.ndarray) or state.dtype.kind != "f" or state.shape != (info.state_dim,):
        raise MessageError(
            f"state: expected a float array [{info.state_dim}], the joints of {info.robot!r}, got {_described(state)}; "
            "send q_arm and q_hand in one array, or use a policy of this robot"
        )
    with np.errstate(over="ignore"):  # becomes infinite and is refused as such
        return state.astype(np.float32)


def _chosen(images: Mapping[str, Any], info: PolicyInfo) -> dict[str, Any]:
    if missing := [camera for camera in info.cameras if camera not in images]:
        got = sorted(str(camera)[:40] for camera in images)
        raise MessageError(f"images: the policy needs {list(info.cameras)}, got {got}; add {missing}")
    return {camera: images[camera] for camera in info.cameras}
