"""Forward kinematics of a hand in plain JAX: works under jit, vmap and grad."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dexhil.retargeting.hand import BASE, Hand, Point, bending_joints, canonical_frame
from dexhil.robots.geometry import FINGERS


def joint_frames(hand: Hand, motors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Position [J, 3] m and rotation [J, 3, 3] of every joint in the hand's base frame, at `motors` [m] rad."""
    angles = jnp.asarray(hand.coupling, motors.dtype) @ motors + jnp.asarray(hand.bias, motors.dtype)
    still, sines, cosines = (jnp.asarray(part, motors.dtype) for part in _turning(hand))
    turns = still + jnp.sin(angles)[:, None, None] * sines + (1.0 - jnp.cos(angles))[:, None, None] * cosines
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


@functools.cache
def _turning(hand: Hand) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[J, 3, 3] each: a joint's rotation in its parent is the first + sin * the second + (1 - cos) * the third."""
    cross = np.cross(hand.axes[:, None], np.eye(3)).swapaxes(-1, -2)  # Rodrigues
    return hand.rotations, hand.rotations @ cross, hand.rotations @ cross @ cross


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


def canonical_points(hand: Hand, motors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(tips, centres of the pads), [F, 3] m each in the canonical frame, at `motors` [m] rad."""
    origin, axes = canonical_frame(hand)
    both = points(hand, (*hand.tips, *hand.pads), motors)
    both = (both - jnp.asarray(origin, motors.dtype)) @ jnp.asarray(axes, motors.dtype)
    return both[: len(hand.tips)], both[len(hand.tips) :]


def bending_of(hand: Hand, motors: Any) -> Any:
    """Summed angle [..., F] rad of the joints that bend each finger, at `motors` [..., m] rad; NumPy or JAX."""
    joints = bending_joints(hand)
    return motors @ (joints @ hand.coupling).T.astype(motors.dtype) + (joints @ hand.bias).astype(motors.dtype)


class CanonicalHand:
    """A hand's points in its canonical frame, for whole clips: motors [T, m] rad in, NumPy arrays out.

    columns: [F], the hand's fingers as indices into FINGERS.
    """

    def __init__(self, hand: Hand) -> None:
        self.hand = hand
        self.columns = np.array([FINGERS.index(finger) for finger in hand.fingers])
        self._points = jax.jit(jax.vmap(functools.partial(canonical_points, hand)))
        self._joints = jax.jit(jax.vmap(lambda motors: joint_frames(hand, motors)[0]))

    def tips(self, motors: np.ndarray) -> np.ndarray:
        """[T, F, 3] m."""
        return np.asarray(self._points(jnp.asarray(motors, jnp.float32))[0], np.float64)

    def pads(self, motors: np.ndarray) -> np.ndarray:
        """[T, F, 3] m, centres of the pads."""
        return np.asarray(self._points(jnp.asarray(motors, jnp.float32))[1], np.float64)

    def skeleton(self, motors: np.ndarray) -> dict[str, np.ndarray]:
        """Finger -> [T, k, 3] m, the line from the wrist over its joints to its tip, for pictures."""
        origin, axes = canonical_frame(self.hand)
        joints, tips = (np.asarray(self._joints(jnp.asarray(motors, jnp.float32))) - origin) @ axes, self.tips(motors)
        wrist = np.zeros((len(tips), 1, 3))
        return {
            finger: np.concatenate([wrist, joints[:, self.hand.chain(finger)[::-1]], tips[:, [index]]], axis=1)
            for index, finger in enumerate(self.hand.fingers)
        }

    def bending(self, motors: np.ndarray, finger: str) -> np.ndarray:
        """Summed angle [T] rad of the finger's joints that bend it towards the palm."""
        return bending_of(self.hand, motors)[:, self.hand.fingers.index(finger)]

    def random_motors(self, seed: int, count: int) -> np.ndarray:
        """[count, m] rad, uniform within the limits."""
        hand = self.hand
        return np.random.default_rng(seed).uniform(hand.lower, hand.upper, (count, hand.num_motors))
