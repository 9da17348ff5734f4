"""What the retargeter is trained on, DexHiL eq. 1 and 2: means over the batch B, m in the robot's canonical frame."""

import jax
import jax.numpy as jnp

from dexhil.retargeting.hand import PAD_RADIUS_M

PAD_GAP_M = 2 * PAD_RADIUS_M  # between the centres of two pads that touch
SQUEEZED_M = PAD_GAP_M / 2  # commanded to a robot that should press: it never gets there, and pushes


def vector_loss(robot: jax.Array, human: jax.Array, weights: jax.Array) -> jax.Array:
    """Squared distance of robot vectors [B, V, 3] from human ones, weighted [B, V]: DexHiL eq. 1, `L_kin` of eq. 2."""
    return 0.5 * (weights * ((robot - human) ** 2).sum(-1)).sum(-1).mean()


def direction_loss(robot_step: jax.Array, human_step: jax.Array) -> jax.Array:
    """1 - cos between the step of a robot tip and that of the person's [B, F, 3]. Source: GeoRT, `dir` of eq. 2."""
    lengths = _length(robot_step) * _length(human_step)
    return (1.0 - (robot_step * human_step).sum(-1) / lengths).mean()


def coverage_loss(robot: jax.Array, reachable: jax.Array) -> jax.Array:
    """Two-way squared chamfer distance [m^2] between tips [B, 3] and reachable ones [N, 3]. GeoRT, `cover` of eq. 2."""
    squared = ((robot[:, None] - reachable[None]) ** 2).sum(-1)
    return squared.min(axis=0).mean() + squared.min(axis=1).mean()


def flatness_loss(before: jax.Array, here: jax.Array, after: jax.Array) -> jax.Array:
    """Second difference of tips [B, F, 3] along a line of key points. Source: GeoRT, `flat` of eq. 2."""
    return ((before + after - 2.0 * here) ** 2).sum(-1).mean()


def speed_loss(robot_step: jax.Array, human_step_m: float) -> jax.Array:
    """Steps of robot tips [..., F, 3] m that are longer than the person's: what makes a robot's hand jump."""
    return (jnp.maximum(_length(robot_step) - human_step_m, 0.0) ** 2).sum(-1).mean()


def pinch_loss(pads: jax.Array, wanted: jax.Array, weights: jax.Array) -> jax.Array:
    """How far the pads [B, F, 3] are off `wanted` [B, F - 1] m from the thumb's; SQUEEZED_M or nearer: DexHiL eq. 2."""
    distance = _length(pads[:, 1:] - pads[:, :1])
    return (weights * (jnp.maximum(distance, SQUEEZED_M) - wanted) ** 2).sum(-1).mean()


def _length(vectors: jax.Array) -> jax.Array:
    """Lengths of vectors [..., 3] with a gradient at 0, where a joint at its limit leaves a tip."""
    return jnp.sqrt((vectors**2).sum(-1) + 1e-12)
