"""How near a hand's tips can come to a person's at all: the best posture of every frame by itself, found by descent.

No method that keeps to the hand's joints can have a lower tip error, however it jumps from frame to frame, but for what
the descent misses: it starts from STARTS postures and keeps the best.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dexhil.retargeting.hand import PAD_RADIUS_M, Hand
from dexhil.retargeting.keypoints import PINCHED_M
from dexhil.retargeting.kinematics import CanonicalHand, canonical_points
from dexhil.retargeting.metrics import CONTACT_M, human_tips, thumb_distances

STARTS, STEPS, RATE = 8, 500, 0.05
SURELY_M = CONTACT_M - 0.0003
PINCH = 20.0  # m of tip error that a metre between pads which should touch is worth


def reachable_tip_error(clip: np.ndarray, robot: CanonicalHand, scale: float) -> dict[str, float]:
    """mm, over frames [T, 21, 3] m: "alone", and "pinching", where the pads touch whenever the person's tips do."""
    tips = human_tips(clip, robot)
    pinched = thumb_distances(tips) < PINCHED_M
    ways = {"alone": np.zeros_like(pinched), "pinching": pinched}
    errors = {way: nearest_postures(robot, scale * tips, pads)[1] for way, pads in ways.items()}
    return {way: 1e3 * float(error.mean()) for way, error in errors.items()}


def nearest_postures(robot: CanonicalHand, tips: np.ndarray, touching: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(motors [T, m] rad, tip errors [T, F] m) whose tips are nearest to `tips` [T, F, 3] m, canonical frame, the pads
    of the fingers in `touching` [T, F - 1] on the thumb's.
    """
    hand, found = robot.hand, []
    for seed in range(STARTS):
        start = robot.random_motors(seed, len(tips)) if seed else np.tile((hand.lower + hand.upper) / 2, (len(tips), 1))
        found.append(_descend(hand, *(jnp.asarray(x, jnp.float32) for x in (start, tips, touching))))
    costs, motors, errors = (np.stack([np.asarray(part) for part in parts]) for parts in zip(*found, strict=True))
    best = costs.argmin(axis=0), np.arange(len(tips))
    return motors[best], errors[best]


@functools.partial(jax.jit, static_argnums=0)
def _descend(
    hand: Hand, motors: jax.Array, tips: jax.Array, touching: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(cost [T], motors [T, m], tip errors [T, F])."""

    def cost(motors: jax.Array) -> tuple[jax.Array, jax.Array]:
        ours, pads = jax.vmap(functools.partial(canonical_points, hand))(motors)
        errors = jnp.sqrt(((ours - tips) ** 2).sum(-1) + 1e-10)
        gaps = jnp.sqrt(((pads[:, 1:] - pads[:, :1]) ** 2).sum(-1) + 1e-12) - 2 * PAD_RADIUS_M
        return errors.mean(-1) + PINCH * (touching * jnp.maximum(gaps - SURELY_M, 0.0)).sum(-1), errors

    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS, 0.002))

    def step(_: int, state: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
        motors, moments = state
        gradient = jax.grad(lambda motors: cost(motors)[0].sum())(motors)
        updates, moments = optimizer.update(gradient, moments)
        return jnp.clip(jnp.asarray(optax.apply_updates(motors, updates)), hand.lower, hand.upper), moments

    motors, _ = jax.lax.fori_loop(0, STEPS, step, (motors, optimizer.init(motors)))
    return cost(motors)[0], motors, cost(motors)[1]
