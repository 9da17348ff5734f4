"""The retargeting network: scaled finger tips to motor angles, in plain JAX or NumPy with the same code.

Every set of motors that moves the same fingers has a small network of its own, which sees those fingers only, so that
a finger does not stir when another one moves. The thumb's angles get a residual that sees all fingers, which is what
the paper's second stage trains. Angles are within the limits by construction.
"""

from __future__ import annotations

import dataclasses
import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dexhil.retargeting.hand import Hand

Layers = list[dict[str, Any]]
Params = dict[str, Any]  # "groups": Layers of each Group; "thumb": Layers of the residual

UNIT_M = 0.1  # lengths enter the network in this unit
_REACH = 1.05  # of half the range: so far the smooth squashing goes, and then it is cut, so that limits are reached


@dataclasses.dataclass(frozen=True)
class Group:
    """fingers: indices into `hand.fingers`; motors: indices of the motors that move exactly those fingers' tips."""

    fingers: tuple[int, ...]
    motors: tuple[int, ...]


@functools.cache
def groups_of(hand: Hand) -> tuple[Group, ...]:
    """The motors by the fingers that they move."""
    moved = np.stack([hand.motors_of(finger) for finger in hand.fingers])
    by_fingers: dict[tuple[int, ...], list[int]] = {}
    for motor in range(hand.num_motors):
        by_fingers.setdefault(tuple(np.flatnonzero(moved[:, motor]).tolist()), []).append(motor)
    return tuple(Group(fingers, tuple(motors)) for fingers, motors in by_fingers.items())


def init(key: jax.Array, hand: Hand, width: int) -> Params:
    """New parameters; the residual of the thumb starts at zero."""
    groups = groups_of(hand)
    keys = jax.random.split(key, len(groups) + 1)
    thumb = _init_layers(keys[-1], (3 * len(hand.fingers), width, width, len(thumb_group(hand).motors)))
    thumb[-1] = jax.tree.map(jnp.zeros_like, thumb[-1])
    return {
        "groups": [
            _init_layers(key, (3 * len(group.fingers), width, width, len(group.motors)))
            for key, group in zip(keys[:-1], groups, strict=True)
        ],
        "thumb": thumb,
    }


def thumb_group(hand: Hand) -> Group:
    """The motors that move the thumb only."""
    thumb = hand.fingers.index("thumb")
    return next(group for group in groups_of(hand) if group.fingers == (thumb,))


def forward(params: Params, hand: Hand, tips: Any, xp: ModuleType = jnp) -> Any:
    """Motor angles [..., m] rad of tips [..., F, 3] m, canonical frame, already scaled to the robot. xp: jnp or np."""
    scaled = tips / UNIT_M
    lead = scaled.shape[:-2]
    columns: dict[int, Any] = {}
    for group, layers in zip(groups_of(hand), params["groups"], strict=True):
        out = _apply(layers, scaled[..., list(group.fingers), :].reshape(*lead, -1), xp)
        if group == thumb_group(hand):
            out = out + _apply(params["thumb"], scaled.reshape(*lead, -1), xp)
        columns |= {motor: out[..., i] for i, motor in enumerate(group.motors)}
    raw = xp.stack([columns[motor] for motor in range(hand.num_motors)], axis=-1)
    middle, half = (hand.upper + hand.lower) / 2, (hand.upper - hand.lower) / 2
    return xp.clip(middle + half * _REACH * xp.tanh(raw), hand.lower, hand.upper)


def _init_layers(key: jax.Array, sizes: tuple[int, ...]) -> Layers:
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"w": jax.random.normal(k, (fan_in, fan_out)) / np.sqrt(fan_in), "b": jnp.zeros(fan_out)}
        for k, fan_in, fan_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def _apply(layers: Layers, x: Any, xp: ModuleType) -> Any:
    for layer in layers[:-1]:
        x = xp.tanh(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]
