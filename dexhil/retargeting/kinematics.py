"""Forward kinematics of a hand in plain JAX: works under jit, vmap and grad."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dexhil.retargeting.hand import Hand, bending_joints, canonical_frame, points
from dexhil.robots.geometry import FINGERS


def canonical_points(hand: Hand, motors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(tips, centres of the pads), [..., F, 3] m each in the canonical frame, at `motors` [..., m] rad."""
    origin, axes = canonical_frame(hand)
    both = points(hand, (*hand.tips, *hand.pads), motors, jnp)
    both = (both - jnp.asarray(origin, motors.dtype)) @ jnp.asarray(axes, motors.dtype)
    return both[..., : len(hand.tips), :], both[..., len(hand.tips) :, :]


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
        self._points = jax.jit(functools.partial(canonical_points, hand))
        self._joints = jax.jit(lambda motors: hand.frames(hand.joints(motors), jnp)[0])

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
