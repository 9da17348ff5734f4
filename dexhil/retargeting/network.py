"""The retargeting network: scaled finger tips to motor angles, the same code for NumPy and JAX.

Every set of motors that moves the same fingers has a small network of its own, which sees those fingers only: no finger
stirs when another one moves. The thumb's angles get a residual that sees all fingers, the paper's second stage. Where
`meet` is there, a finger near the thumb gets one too, which sees both and vanishes smoothly as they part: the thumb
alone does not reach every pinch. Angles are within the limits by construction.
"""

import dataclasses
import functools
import itertools
from types import ModuleType
from typing import Any

import numpy as np

from dexhil.retargeting.hand import Hand, hand_length

Layers = list[dict[str, Any]]
Params = dict[str, Any]  # "groups": Layers of each Group; "thumb": Layers; "meet": Layers of each of `meeting` or []

TOGETHER_M, APART_M = 0.018, 0.060  # between two tips of a person that mean to touch, and that surely do not
USUAL_M = 0.18  # `keypoints.hand_size` of an adult
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


def init(rng: np.random.Generator, hand: Hand, width: int, *, meet: bool = True) -> Params:
    """New parameters; residuals start at zero."""
    every, meeting = 3 * len(hand.fingers), meeting_groups(hand) if meet else ()
    return {
        "groups": [_init_layers(rng, (3 * len(g.fingers), width, width, len(g.motors))) for g in groups_of(hand)],
        "thumb": _init_residual(rng, (every, width, width, len(thumb_group(hand).motors))),
        "meet": [_init_residual(rng, (6, width, width, len(group.motors))) for group in meeting],
    }


def thumb_group(hand: Hand) -> Group:
    """The motors that move the thumb only."""
    thumb = hand.fingers.index("thumb")
    return next(group for group in groups_of(hand) if group.fingers == (thumb,))


@functools.cache
def meeting_groups(hand: Hand) -> tuple[Group, ...]:
    """The motors that move one finger only, which may meet the thumb."""
    return tuple(g for g in groups_of(hand) if len(g.fingers) == 1 and g != thumb_group(hand))


def gaps(tips: Any, hand: Hand, xp: ModuleType = np) -> Any:
    """Distances [..., F - 1] m of the fingers' tips [..., F, 3] from the thumb's, as on a hand of the usual size."""
    thumb = hand.fingers.index("thumb")
    others = [i for i in range(len(hand.fingers)) if i != thumb]
    between = tips[..., others, :] - tips[..., thumb : thumb + 1, :]
    return xp.sqrt((between**2).sum(axis=-1) + 1e-12) * (USUAL_M / hand_length(hand))


def closeness(gap: Any, xp: ModuleType = np) -> Any:
    """How much two tips of a person, `gap` m apart, mean to touch: 1 where they do, smoothly 0 where far apart."""
    near = xp.clip((APART_M - gap) / (APART_M - TOGETHER_M), 0.0, 1.0)
    return near * near * (3.0 - 2.0 * near)


def forward(params: Params, hand: Hand, tips: Any, xp: ModuleType = np) -> Any:
    """Motor angles [..., m] rad of tips [..., F, 3] m, canonical frame, already scaled to the robot. xp: jnp or np."""
    return xp.clip(squash(raw_angles(params, hand, tips, xp), hand, xp), hand.lower, hand.upper)


def squash(raw: Any, hand: Hand, xp: ModuleType = np) -> Any:
    """Raw outputs [..., m] to angles that reach a little beyond the limits, so that clipping makes these reachable."""
    middle, half = (hand.upper + hand.lower) / 2, (hand.upper - hand.lower) / 2
    return middle + half * _REACH * xp.tanh(raw)


def raw_angles(params: Params, hand: Hand, tips: Any, xp: ModuleType = np) -> Any:
    """What the networks say [..., m], unbounded."""
    scaled = tips / UNIT_M
    lead = scaled.shape[:-2]
    thumb, close = hand.fingers.index("thumb"), closeness(gaps(tips, hand, xp), xp)
    columns: dict[int, Any] = {}
    for group, layers in zip(groups_of(hand), params["groups"], strict=True):
        out = _apply(layers, scaled[..., list(group.fingers), :].reshape(*lead, -1), xp)
        if group == thumb_group(hand):
            out = out + _apply(params["thumb"], scaled.reshape(*lead, -1), xp)
        elif params["meet"] and group in meeting_groups(hand):
            (finger,) = group.fingers
            both = scaled[..., [finger, thumb], :].reshape(*lead, -1)
            residual = _apply(params["meet"][meeting_groups(hand).index(group)], both, xp)
            out = out + close[..., finger - 1 : finger] * residual
        columns |= {motor: out[..., i] for i, motor in enumerate(group.motors)}
    return xp.stack([columns[motor] for motor in range(hand.num_motors)], axis=-1)


def _init_layers(rng: np.random.Generator, sizes: tuple[int, ...]) -> Layers:
    weights = [rng.normal(size=(fan_in, out)) / np.sqrt(fan_in) for fan_in, out in itertools.pairwise(sizes)]
    return [{"w": w.astype(np.float32), "b": np.zeros(w.shape[1], np.float32)} for w in weights]


def _init_residual(rng: np.random.Generator, sizes: tuple[int, ...]) -> Layers:
    *layers, last = _init_layers(rng, sizes)
    return [*layers, {name: np.zeros_like(value) for name, value in last.items()}]


def _apply(layers: Layers, x: Any, xp: ModuleType) -> Any:
    for layer in layers[:-1]:
        x = xp.tanh(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]
