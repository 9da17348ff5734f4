"""What the retargeter is trained on: DexHiL eq. 1 for the four fingers, eq. 2 for the thumb. Plain JAX.

Positions are in metres in the robot's canonical frame; a person's are scaled to the robot. Every loss is a mean over
the batch B.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dexhil.retargeting.hand import PAD_RADIUS_M
from dexhil.retargeting.keypoints import PINCHED_M

APART_M = 0.050  # two tips of a person that are surely not meant to touch
PAD_GAP_M = 2 * PAD_RADIUS_M  # between the centres of two pads that touch


def closeness(gap: jax.Array) -> jax.Array:
    """How much two tips of a person, `gap` m apart unscaled, mean to touch: 1 to PINCHED_M, smoothly 0 at APART_M."""
    share = jnp.clip((APART_M - gap) / (APART_M - PINCHED_M), 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def vector_loss(robot: jax.Array, human: jax.Array, weights: jax.Array) -> jax.Array:
    """Squared distance of robot vectors [B, V, 3] from human ones, weighted [B, V]. Source: DexHiL eq. 1, first term.

    The vectors may be root to tip, or tip to tip (`L_kin` of eq. 2).
    """
    return 0.5 * (weights * ((robot - human) ** 2).sum(-1)).sum(-1).mean()


def direction_loss(robot_step: jax.Array, human_step: jax.Array) -> jax.Array:
    """1 - cos between the step of a robot tip and that of the person's [B, F, 3]. Source: GeoRT, `dir` of eq. 2."""
    lengths = jnp.linalg.norm(robot_step, axis=-1) * jnp.linalg.norm(human_step, axis=-1)
    return (1.0 - (robot_step * human_step).sum(-1) / (lengths + 1e-9)).mean()


def coverage_loss(robot: jax.Array, reachable: jax.Array) -> jax.Array:
    """Two-way squared chamfer distance [m^2] between tips [B, 3] and reachable ones [N, 3]. GeoRT, `cover` of eq. 2."""
    squared = ((robot[:, None] - reachable[None]) ** 2).sum(-1)
    return squared.min(axis=0).mean() + squared.min(axis=1).mean()


def flatness_loss(before: jax.Array, here: jax.Array, after: jax.Array) -> jax.Array:
    """Second difference of tips [B, F, 3] along a line of key points. Source: GeoRT, `flat` of eq. 2."""
    return ((before + after - 2.0 * here) ** 2).sum(-1).mean()


def pinch_loss(pads: jax.Array, human_gap: jax.Array) -> jax.Array:
    """Pads [B, F, 3], thumb first, that do not touch while the person's gaps [B, F - 1] m say so. `pinch` of eq. 2."""
    distance = jnp.linalg.norm(pads[:, 1:] - pads[:, :1] + 1e-9, axis=-1)
    return (closeness(human_gap) * jnp.maximum(distance - PAD_GAP_M, 0.0) ** 2).sum(-1).mean()
