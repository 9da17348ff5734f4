"""Human hands of any size as key points: a kinematic model with measured proportions, and people who move freely.

Canonical frame of a right hand, as in `keypoints`. Proportions: Buchholz, Armstrong, Goldstein 1992, "Anthropometric
data for describing the kinematics of the human hand", segments as fractions of the hand's length. NumPy and SciPy.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import least_squares

from dexhil.retargeting.keypoints import NUM_POINTS, OF_FINGER, TIPS
from dexhil.robots.geometry import FINGERS

HAND_M = 0.188  # wrist to the tip of the middle finger, an adult
_METACARPAL = np.array([0.251, 0.463, 0.446, 0.421, 0.414])
_PHALANGES = np.array(
    [[0.196, 0.158, 0.0], [0.245, 0.143, 0.097], [0.266, 0.170, 0.108], [0.244, 0.165, 0.107], [0.204, 0.117, 0.093]]
)
_KNUCKLE_SIDE = np.array([0.0, 0.125, 0.0, -0.105, -0.195])  # y of the four knuckles
_THUMB_BASE = np.array([0.05, 0.10, 0.10])
_GLOVES = np.array([[0.0, -0.4, -0.2, 0.0], [0.3, 0.0, 0.1, 0.3]])  # of the fingers' segments, palm to tip
_DIP_OF_PIP = 2.0 / 3.0  # people bend the last two joints together
_TOUCH_M = 0.010  # between two tips of a person that touch

# Angles of a hand [5, 4] rad. A finger's row: spread (to the thumb's side), MCP, PIP, DIP. The thumb's row: azimuth of
# the metacarpal (0 beside the palm, pi/2 in front of it), its angle from the fingers' direction, MCP, IP.
LOWER = np.array([[-0.2, 0.3, -0.1, -0.3], *[[-0.35, -0.3, 0.0, 0.0]] * 4])
UPPER = np.array([[2.0, 1.1, 1.0, 1.3], *[[0.35, 1.6, 1.8, 1.2]] * 4])
OPEN = np.array([[0.4, 0.75, 0.05, 0.05], *[[s, 0.08, 0.10, 0.07] for s in (0.12, 0.0, -0.10, -0.22)]])
FIST = np.array([[1.5, 0.55, 0.7, 0.8], *[[0.0, 1.55, 1.78, 1.19]] * 4])


@dataclasses.dataclass(frozen=True)
class Person:
    """length: m, wrist to the middle finger's tip. metacarpal [5], phalanges [5, 3]: fractions of it."""

    length: float = HAND_M
    metacarpal: np.ndarray = dataclasses.field(default_factory=_METACARPAL.copy)
    phalanges: np.ndarray = dataclasses.field(default_factory=_PHALANGES.copy)


def draw_person(rng: np.random.Generator, stray: float = 0.0) -> Person:
    """Somebody: hands from 16 to 21 cm, usual proportions; stray: towards 1, skeletons as gloves report them."""
    person = Person(
        float(rng.uniform(0.16, 0.21)),
        _METACARPAL * rng.normal(1.0, 0.03, _METACARPAL.shape),
        _PHALANGES * rng.normal(1.0, 0.05, _PHALANGES.shape),
    )
    if stray:
        low, high = _GLOVES
        metacarpal, *phalanges = 1.0 + stray * rng.uniform(low, high)
        person.metacarpal[1:] *= metacarpal
        person.phalanges[1:] *= phalanges
    return person


def keypoints_of(angles: np.ndarray, person: Person | None = None) -> np.ndarray:
    """Key points [..., 21, 3] m of hands with angles [..., 5, 4] rad, wrist at the origin."""
    person = person or Person()
    points = np.zeros((*angles.shape[:-2], NUM_POINTS, 3))
    for index, finger in enumerate(FINGERS):
        chain = _thumb if finger == "thumb" else _finger
        points[..., OF_FINGER[finger], :] = person.length * chain(angles[..., index, :], index, person)
    return points


def _finger(angles: np.ndarray, index: int, person: Person) -> np.ndarray:
    """Knuckle, PIP, DIP, tip [..., 4, 3]: bending turns z towards x, spreading turns the finger towards y."""
    spread, bent = angles[..., :1], np.cumsum(angles[..., 1:], axis=-1)
    straight = np.stack([np.sin(bent), np.zeros_like(bent), np.cos(bent)], axis=-1)
    side = spread[..., None] * np.array([0.0, 1.0, 0.0])
    directions = straight + side * np.cos(bent)[..., None]
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    reach, across = person.metacarpal[index], _KNUCKLE_SIDE[index]
    knuckle = np.array([0.0, across, np.sqrt(reach**2 - across**2)])
    return _walk(knuckle, directions, person.phalanges[index])


def _thumb(angles: np.ndarray, index: int, person: Person) -> np.ndarray:
    """Base, MCP, IP, tip [..., 4, 3]: the metacarpal swings about the fingers' direction, the joints bend inwards."""
    azimuth, polar = angles[..., 0], angles[..., 1]
    out = np.stack([np.sin(azimuth), np.cos(azimuth), np.zeros_like(azimuth)], axis=-1)
    inward = np.stack([np.cos(azimuth), -np.sin(azimuth), np.zeros_like(azimuth)], axis=-1)
    metacarpal = np.sin(polar)[..., None] * out + np.cos(polar)[..., None] * np.array([0.0, 0.0, 1.0])
    bent = np.cumsum(np.concatenate([np.zeros_like(azimuth)[..., None], angles[..., 2:]], axis=-1), axis=-1)
    directions = np.cos(bent)[..., None] * metacarpal[..., None, :] + np.sin(bent)[..., None] * inward[..., None, :]
    lengths = np.array([person.metacarpal[index], *person.phalanges[index, :2]])
    return _walk(_THUMB_BASE, directions, lengths)


def _walk(start: np.ndarray, directions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    steps = directions * lengths[:, None]
    first = np.broadcast_to(start, (*steps.shape[:-2], 1, 3))
    return np.concatenate([first, start + np.cumsum(steps, axis=-2)], axis=-2)


def pinch(finger: str, person: Person | None = None, arched: float = 0.5, others: np.ndarray = OPEN) -> np.ndarray:
    """Angles [5, 4] rad at which the tips of thumb and `finger` touch; arched: 0 with long fingers, 1 with bent."""
    person, index = person or Person(), FINGERS.index(finger)
    rows = [0, index]
    rest = others.copy()
    rest[0] = [1.3, 0.45 + 0.3 * arched, 0.1 + 0.4 * arched, 0.1 + 0.6 * arched]
    rest[index] = [0.0, 0.95 - 0.1 * arched, 0.3 + 1.0 * arched, 0.2 + 0.6 * arched]

    def with_free(free: np.ndarray) -> np.ndarray:
        angles = rest.copy()
        angles[rows] = free.reshape(2, 4)
        return angles

    def misses(free: np.ndarray) -> np.ndarray:
        tips = keypoints_of(with_free(free), person)[TIPS[rows]]
        gap = np.linalg.norm(tips[1] - tips[0])
        together = free[7] - _DIP_OF_PIP * free[6]
        return np.array([(gap - _TOUCH_M) / 0.002, together, *(0.15 * (free - rest[rows].ravel()))])

    bounds = (LOWER[rows].ravel(), UPPER[rows].ravel())
    return with_free(least_squares(misses, rest[rows].ravel(), bounds=bounds).x)


def free_motion(rng: np.random.Generator, person: Person, seconds: float, rate_hz: float) -> np.ndarray:
    """Key points [T, 21, 3] m of somebody who moves a hand freely: gestures, pinches, single fingers, in between."""
    pinches = [
        pinch(finger, person, arched, OPEN + bent * (FIST - OPEN))
        for finger in FINGERS[1:]
        for arched, bent in rng.uniform(0.0, 1.0, (4, 2))
    ]
    gaps = rng.uniform(0.25, 0.9, int(seconds / 0.5) + 2)
    times = np.cumsum(gaps) - gaps[0]
    poses = np.stack([_any_gesture(rng, pinches) for _ in times])
    wanted = np.arange(round(seconds * rate_hz)) / rate_hz
    angles = PchipInterpolator(times, poses)(wanted)
    return keypoints_of(np.clip(angles, LOWER, UPPER), person)


def _any_gesture(rng: np.random.Generator, pinches: Sequence[np.ndarray]) -> np.ndarray:
    kind = rng.uniform()
    if kind < 0.4:
        return pinches[int(rng.integers(len(pinches)))]
    closed = rng.uniform(0.0, 1.0, (5, 1)) if kind < 0.8 else np.full((5, 1), rng.integers(2))
    pose = OPEN + closed * (FIST - OPEN)
    pose[1:, 0] += rng.normal(0.0, 0.08) * np.array([1.0, 0.0, -1.0, -1.5]) * (1.0 - closed[1:, 0])
    pose[0, :2] += rng.normal(0.0, [0.3, 0.12])
    return pose
