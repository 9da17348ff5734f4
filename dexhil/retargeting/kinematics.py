"""Forward kinematics of a hand in plain JAX: works under jit, vmap and grad."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dexhil.retargeting.hand import BASE, Hand, Point
from dexhil.retargeting.keypoints import PALM_FINGERS, canonical_axes
from dexhil.robot_geometry import FINGERS

_SPREADS = 0.7  # a joint whose axis is this much along the palm's normal spreads the fingers, any other bends them


def joint_frames(hand: Hand, motors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Position [J, 3] m and rotation [J, 3, 3] of every joint in the hand's base frame, at `motors` [m] rad."""
    angles = jnp.asarray(hand.coupling, motors.dtype) @ motors + jnp.asarray(hand.bias, motors.dtype)
    turns = jnp.asarray(hand.rotations, motors.dtype) @ jax.vmap(about_axis)(
        jnp.asarray(hand.axes, motors.dtype), angles
    )
    offsets = jnp.asarray(hand.positions, motors.dtype)
    positions, rotations = [], []
    for joint, parent in enumerate(hand.parents):
        if parent == BASE:
            positions.append(offsets[joint])
            rotations.append(turns[joint])
        else:
            positions.append(positions[parent] + rotations[parent] @ offsets[joint])
            rotations.append(rotations[parent] @ turns[joint])
    return jnp.stack(positions), jnp.stack(rotations)


def points(hand: Hand, which: Sequence[Point], motors: jax.Array) -> jax.Array:
    """Positions [P, 3] m of points (`hand.tips`, `hand.pads`, `hand.roots`) in the base frame, at `motors` [m] rad."""
    positions, rotations = joint_frames(hand, motors)
    offsets = jnp.asarray(np.array([point.offset for point in which]), motors.dtype)
    carried = [point.joint for point in which]
    at = [
        offset if j == BASE else positions[j] + rotations[j] @ offset
        for j, offset in zip(carried, offsets, strict=True)
    ]
    return jnp.stack(at)


def about_axis(axis: jax.Array, angle: jax.Array) -> jax.Array:
    """Rotation [3, 3] by `angle` rad about the unit vector `axis` [3] (Rodrigues)."""
    x, y, z = axis
    zero = jnp.zeros_like(x)
    cross = jnp.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]])
    return jnp.eye(3, dtype=angle.dtype) + jnp.sin(angle) * cross + (1.0 - jnp.cos(angle)) * cross @ cross


def canonical_frame(hand: Hand) -> tuple[np.ndarray, np.ndarray]:
    """(origin [3] m, axes [3, 3] as columns) of the hand's canonical frame in its base frame: that of `keypoints`.

    Raises ValueError for a hand without index, middle and ring, whose knuckles give the frame.
    """
    missing = [finger for finger in PALM_FINGERS if finger not in hand.fingers]
    if missing:
        raise ValueError(
            f"{hand.name}: expected fingers index, middle and ring, which give the frame; missing: {missing}"
        )
    knuckles = [hand.roots[hand.fingers.index(finger)] for finger in PALM_FINGERS]
    at_rest = points(hand, knuckles, jnp.zeros(hand.num_motors))
    return hand.wrist, canonical_axes(np.asarray(at_rest, np.float64) - hand.wrist)


class CanonicalHand:
    """A hand's points in its canonical frame, for whole clips: motors [T, m] rad in, NumPy arrays out.

    columns: [F], the hand's fingers as indices into FINGERS.
    """

    def __init__(self, hand: Hand) -> None:
        self.hand = hand
        self.columns = np.array([FINGERS.index(finger) for finger in hand.fingers])
        origin, axes = canonical_frame(hand)
        self.to_canonical = lambda at: (at - jnp.asarray(origin, at.dtype)) @ jnp.asarray(axes, at.dtype)
        self._tips = jax.jit(jax.vmap(lambda motors: self.to_canonical(points(hand, hand.tips, motors))))
        self._pads = jax.jit(jax.vmap(lambda motors: self.to_canonical(points(hand, hand.pads, motors))))
        rest = np.asarray(joint_frames(hand, jnp.zeros(hand.num_motors))[1])
        axes_at_rest = np.einsum("jab,jb->ja", rest, hand.axes)
        self._bends = np.abs(axes_at_rest @ axes[:, 0]) < _SPREADS

    def tips(self, motors: np.ndarray) -> np.ndarray:
        """[T, F, 3] m."""
        return np.asarray(self._tips(jnp.asarray(motors, jnp.float32)), np.float64)

    def pads(self, motors: np.ndarray) -> np.ndarray:
        """[T, F, 3] m, centres of the pads."""
        return np.asarray(self._pads(jnp.asarray(motors, jnp.float32)), np.float64)

    def bending(self, motors: np.ndarray, finger: str) -> np.ndarray:
        """Summed angle [T] rad of the finger's joints that bend it towards the palm."""
        angles = motors @ self.hand.coupling.T + self.hand.bias
        return angles[:, [joint for joint in self.hand.chain(finger) if self._bends[joint]]].sum(axis=1)

    def random_motors(self, seed: int, count: int) -> np.ndarray:
        """[count, m] rad, uniform within the limits."""
        hand = self.hand
        return np.random.default_rng(seed).uniform(hand.lower, hand.upper, (count, hand.num_motors))
