"""Forward kinematics of a hand in plain JAX: works under jit, vmap and grad."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dexhil.retargeting.hand import BASE, Hand, Point


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
