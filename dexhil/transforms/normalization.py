"""Between recorded values and what the model eats: one path for training batches and for serving. NumPy only.

Every transform stands beside its inverse. Raw units (rad, uint8) outside, about [-1, 1] inside.
Letters: B batch, H chunk, A action width, S state width, D any width, N samples.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dexhil.schema import ARM_DOF
from dexhil.transforms.ee_actions import EE_DIM, EE_SPACES, ee_state, from_ee_actions, to_ee_actions

ACTION_SPACES = ("recorded", *EE_SPACES)
QUANTILES = (0.01, 0.99)
# A joint that hardly moves in the data would have its noise blown up to the full range (and any real motion to
# thousands); no dimension is stretched by more than 2 / MIN_RANGE.
MIN_RANGE = 0.02  # rad
MAX_ENTRIES = 500_000


@dataclasses.dataclass(frozen=True)
class NormStats:
    """Per-dimension range that maps to [-1, 1]: quantiles 1 and 99 %, widened to at least `min_range`.

    A dimension that hardly ever leaves its usual values, and then goes far (a flag that is set at the end), is widened
    until its mean square in the range is 1 at most: it would be nearly all of the loss.

    Attributes:
        low: float32 [D], raw units; values outside map outside [-1, 1] unless clipped.
        high: float32 [D], raw units.
    """

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def from_arrays(
        cls, values: np.ndarray, min_range: float | np.ndarray = MIN_RANGE, names: Sequence[str] | None = None
    ) -> NormStats:
        """Statistics of values.

        Args:
            values: [N, D], raw units.
            min_range: one floor or one per dimension, raw units.
            names: of the dimensions, for the warning of rare values; by default their numbers.

        Raises:
            ValueError: there are no values, or they are not [N, D] and finite.
        """
        if values.ndim != 2 or not len(values):
            raise ValueError(f"norm stats: expected values [N, D] with N >= 1, got {list(values.shape)}")
        if not np.isfinite(values).all():
            row, dim = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(f"norm stats: non-finite value at row {row}, dimension {dim}; repair or drop that episode")
        if not (np.asarray(min_range) > 0).all():
            raise ValueError(f"norm stats: min_range must be positive, got {min_range}")
        low, high = np.quantile(values.astype(np.float64), QUANTILES, axis=0)
        centre, half = (low + high) / 2, np.maximum(high - low, min_range) / 2
        squares = (((values - centre) / half) ** 2).mean(axis=0)
        for dim in np.flatnonzero(squares > 1 + 1e-6).tolist():
            name = names[dim] if names else f"dimension {dim}"
            _warn_of_rare_values(name, values[:, dim], squares[dim] / squares.sum())
        half = half * np.sqrt(np.maximum(squares, 1))
        return cls((centre - half).astype(np.float32), (centre + half).astype(np.float32))

    @property
    def dim(self) -> int:
        return len(self.low)

    def normalize(self, values: np.ndarray, clip: float | None = None) -> np.ndarray:
        """Raw [..., D] -> about [-1, 1], float32; limited to [-clip, clip] if asked."""
        self._check_width(values)
        result = (2 * (values - self.low) / (self.high - self.low) - 1).astype(np.float32)
        return result if clip is None else np.clip(result, -clip, clip)

    def unnormalize(self, values: np.ndarray) -> np.ndarray:
        """Inverse of `normalize` (without clip): [..., D] -> raw units, float32."""
        self._check_width(values)
        return ((values + 1) / 2 * (self.high - self.low) + self.low).astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        return {"low": self.low.tolist(), "high": self.high.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Sequence[float]]) -> NormStats:
        return cls(np.asarray(data["low"], np.float32), np.asarray(data["high"], np.float32))

    def _check_width(self, values: np.ndarray) -> None:
        if values.shape[-1] != self.dim:
            raise ValueError(
                f"norm stats: made for width {self.dim}, got values of width {values.shape[-1]}; wrong robot?"
            )


def _warn_of_rare_values(name: str, values: np.ndarray, fraction: float) -> None:
    usual = np.median(values)
    rare = values[np.argmax(np.abs(values - usual))]
    warnings.warn(
        f"{name} is nearly always near {usual:.3g} and rarely reaches {rare:.3g}: in the range of its usual values it "
        f"would be {fraction:.0%} of the mean square, so of the loss; its range was widened. If it is a flag that the "
        f"policy need not predict, leave it out of the data set; if it is an error, drop those episodes",
        stacklevel=4,
    )


def to_delta(actions: np.ndarray, state: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    """Absolute chunk [..., H, A] -> the same with `dims` relative to the current state [..., S]."""
    return _shift_by_state(actions, state, dims, -1.0)


def to_absolute(actions: np.ndarray, state: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    """Inverse of `to_delta`."""
    return _shift_by_state(actions, state, dims, 1.0)


def _shift_by_state(actions: np.ndarray, state: np.ndarray, dims: Sequence[int], sign: float) -> np.ndarray:
    index = list(dims)
    limit = min(actions.shape[-1], state.shape[-1])
    if index and not 0 <= min(index) <= max(index) < limit:
        raise ValueError(f"delta_dims: {index} must lie in 0..{limit - 1}, where state and action name the same joint")
    shifted = actions.copy()
    shifted[..., index] += sign * state[..., None, index]
    return shifted


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Everything that ties raw state and actions to the model's: frozen from the offline data, kept in the checkpoint.

    Attributes:
        state: stats [S'] of the state as the action space shows it.
        actions: stats [A'] of the *transformed* actions, pooled over chunk positions.
        delta_dims: recorded action dimensions relative to the state at the chunk's start.
        action_space: "recorded", or motion of the end effector and hand targets, "ee_delta" or "ee_pose": `ee_actions`.
    """

    state: NormStats
    actions: NormStats
    delta_dims: tuple[int, ...]
    action_space: str = "recorded"

    def __post_init__(self) -> None:
        if self.action_space not in ACTION_SPACES:
            raise ValueError(f"action_space {self.action_space!r}: expected one of {list(ACTION_SPACES)}")
        if self.action_space in EE_SPACES and self.delta_dims:
            raise ValueError(
                f"delta_dims {self.delta_dims}: they name recorded joints, which {self.action_space!r} has none of; "
                "leave them empty"
            )

    @property
    def recorded_dims(self) -> dict[str, int]:
        """Widths of the recorded {"state", "actions"} that go in, by name."""
        if self.action_space == "recorded":
            return {"state": self.state.dim, "actions": self.actions.dim}
        joints = ARM_DOF + self.actions.dim - EE_DIM
        return {"state": joints, "actions": joints}

    def normalize_state(self, state: np.ndarray, clip: float | None = None) -> np.ndarray:
        """Recorded state [..., S] -> model space [..., S']."""
        return self.state.normalize(_show_state(state, self.action_space), clip)

    def normalize_actions(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Recorded chunk [..., H, A] and state [..., S] -> model space [..., H, A']."""
        return self.actions.normalize(_transform(actions, state, self.action_space, self.delta_dims))

    def unnormalize_actions(
        self, actions: np.ndarray, state: np.ndarray, before: np.ndarray | None = None
    ) -> np.ndarray:
        """Inverse of `normalize_actions`; of an end effector's up to the elbow, which goes on from that of `before`.

        That is the recorded action [..., A] which is executed before these, by default the present state.
        """
        raw = self.actions.unnormalize(actions)
        if self.action_space in EE_SPACES:
            return from_ee_actions(raw, state, self.action_space, before)
        return to_absolute(raw, state, self.delta_dims)

    def to_json(self) -> dict[str, Any]:
        stats = {"state": self.state.to_json(), "actions": self.actions.to_json()}
        return stats | {"delta_dims": list(self.delta_dims), "action_space": self.action_space}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Normalization:
        state, actions = NormStats.from_json(data["state"]), NormStats.from_json(data["actions"])
        return cls(state, actions, tuple(data["delta_dims"]), data["action_space"])

    def hash(self) -> str:
        """Content hash, 16 hex digits: equal exactly where the numbers are."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def _show_state(state: np.ndarray, action_space: str) -> np.ndarray:
    return ee_state(state) if action_space in EE_SPACES else state


def _transform(actions: np.ndarray, state: np.ndarray, action_space: str, delta_dims: Sequence[int]) -> np.ndarray:
    if action_space in EE_SPACES:
        return to_ee_actions(actions, state, action_space)
    return to_delta(actions, state, delta_dims)


def fit_normalization(
    states: np.ndarray,
    chunks: np.ndarray,
    mask: np.ndarray,
    *,
    delta_dims: Sequence[int] = (),
    action_space: str = "recorded",
    min_range: float = MIN_RANGE,
    min_range_m: float = MIN_RANGE,
    joint_names: Sequence[str] | None = None,
) -> Normalization:
    """Statistics of raw states and raw absolute chunks.

    Of large data only every k-th sample is used, about MAX_ENTRIES chunk entries, so that memory stays flat.

    Args:
        states: [N, S].
        chunks: [N, H, A].
        mask: bool [N, H]; entries with False do not count.
        delta_dims: see `Normalization`.
        action_space: see `Normalization`.
        min_range: rad, the floor of joints, rotation vectors, and the rotation's columns in an end effector's state.
        min_range_m: m, that of its positions.
        joint_names: of the recorded joints, for warnings.
    """
    every = max(1, mask.size // MAX_ENTRIES)
    states, chunks, mask = states[::every], chunks[::every], mask[::every]
    valid = _transform(chunks, states, action_space, delta_dims)[mask]
    shown = _show_state(states, action_space)
    positions = 3 if action_space in EE_SPACES else 0  # they come first, in state and actions
    stats = []
    for kind, values in (("state", shown), ("actions", valid)):
        known = _dimension_names(joint_names, action_space)[kind] if joint_names else range(values.shape[1])
        floor = np.where(np.arange(values.shape[1]) < positions, min_range_m, min_range)
        stats.append(NormStats.from_arrays(values, floor, [f"dimension {name} of the {kind}" for name in known]))
    state_stats, action_stats = stats
    return Normalization(state_stats, action_stats, tuple(delta_dims), action_space)


Samples = tuple[np.ndarray, np.ndarray, np.ndarray]  # states [N, S], chunks [N, H, A], mask bool [N, H]


def normalization_drift(
    normalization: Normalization, frozen: Samples, new: Samples, joint_names: Sequence[str]
) -> list[dict[str, Any]]:
    """How far new data has left the ranges that were frozen from the warm-up, one row per dimension, worst first.

    Args:
        normalization: the frozen one.
        frozen: the raw samples that it was fitted to.
        new: those of a later round.
        joint_names: of the recorded joints [S].

    Returns:
        Rows {"kind": "state" or "actions", "name", "outside": fraction of new values outside the range (2 % is normal),
        "reach": how far out they go (99th percentile of the normalised size, 1 at the end of the range), "shift":
        of the median, in units of the range}.
    """
    widths = normalization.recorded_dims
    if set(widths.values()) != {len(joint_names)}:
        raise ValueError(
            f"joint_names: expected one per recorded joint, {widths}, got {list(joint_names)}; wrong robot?"
        )
    names = _dimension_names(joint_names, normalization.action_space)
    rows = []
    pairs = zip(_normalized(normalization, frozen), _normalized(normalization, new), strict=True)
    for kind, (before, now) in zip(names, pairs, strict=True):
        outside = (np.abs(now) > 1).mean(axis=0)
        shift = (np.median(now, axis=0) - np.median(before, axis=0)) / 2  # [-1, 1] is two units wide
        reach = np.quantile(np.abs(now), QUANTILES[1], axis=0)
        figures = np.stack([shift, outside, reach], axis=1).tolist()
        for name, row in zip(names[kind], figures, strict=True):
            rows.append({"kind": kind, "name": name, **dict(zip(("shift", "outside", "reach"), row, strict=True))})
    return sorted(rows, key=lambda row: (-row["outside"], -abs(row["shift"])))


def _normalized(normalization: Normalization, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    states, chunks, mask = samples
    if not mask.any():
        raise ValueError(f"drift: expected samples with at least one valid action, got a mask of {list(mask.shape)}")
    every = max(1, mask.size // MAX_ENTRIES)
    states, chunks, mask = states[::every], chunks[::every], mask[::every]
    return normalization.normalize_state(states), normalization.normalize_actions(chunks, states)[mask]


def _dimension_names(joint_names: Sequence[str], action_space: str) -> dict[str, list[str]]:
    if action_space == "recorded":
        return {"state": list(joint_names), "actions": list(joint_names)}
    hand = list(joint_names[ARM_DOF:])
    columns = [f"ee_rotation_{axis}{column}" for column in (0, 1) for axis in "xyz"]
    return {
        "state": [*(f"ee_{axis}" for axis in "xyz"), *columns, *hand],
        "actions": [*(f"{action_space}_{axis}" for axis in "xyz"), *(f"ee_turn_{axis}" for axis in "xyz"), *hand],
    }


@functools.lru_cache(maxsize=64)
def _resize_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Weights [size_out, size_in] of a triangle filter, widened where the image shrinks (no aliasing)."""
    scale = size_in / size_out
    centres = (np.arange(size_out) + 0.5) * scale - 0.5
    distance = np.abs(centres[:, None] - np.arange(size_in)) / max(scale, 1.0)
    weights = np.maximum(1.0 - distance, 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [..., H, W, 3] -> uint8 [..., size, size, 3], aspect kept and the rest black; as given where it fits."""
    if image.dtype != np.uint8 or image.ndim < 3 or image.shape[-1] != 3:
        raise ValueError(f"image: expected uint8 [..., H, W, 3], got {image.dtype} {list(image.shape)}")
    height, width = image.shape[-3:-1]
    if (height, width) == (size, size):
        return image
    scale = size / max(height, width)
    new_height, new_width = max(round(height * scale), 1), max(round(width * scale), 1)
    lead = image.shape[:-3]
    rows = _resize_matrix(height, new_height) @ image.astype(np.float32).reshape(*lead, height, width * 3)
    resized = _resize_matrix(width, new_width) @ rows.reshape(*lead, new_height, width, 3)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    result = np.zeros((*lead, size, size, 3), np.uint8)
    result[..., top : top + new_height, left : left + new_width, :] = np.rint(resized)
    return result


def images_to_float(images: Mapping[str, Any]) -> dict[str, Any]:
    """camera -> uint8 [..., 3] (NumPy or JAX) to float32 in [-1, 1]. Runs on the accelerator: bytes travel there."""
    return {camera: image.astype(np.float32) / 127.5 - 1.0 for camera, image in images.items()}
