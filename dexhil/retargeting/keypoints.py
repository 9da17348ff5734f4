"""Human hands as 21 key points [..., 21, 3] m: the canonical frame, bending, and what is wrong with a recording.

0 is the wrist; thumb 1-4, index 5-8, middle 9-12, ring 13-16, little 17-20, each from root to tip. Canonical frame of a
right hand: wrist at the origin, z to the middle knuckle, y from the ring's knuckle to the index' made orthogonal to z,
x = y x z, out of the palm. NumPy only.
"""

from collections.abc import Sequence

import numpy as np

from dexhil.robots.geometry import FINGERS

NUM_POINTS = 21
OF_FINGER = {finger: slice(4 * index + 1, 4 * index + 5) for index, finger in enumerate(FINGERS)}
TIPS = np.array([OF_FINGER[finger].stop - 1 for finger in FINGERS])
KNUCKLES = np.array([OF_FINGER[finger].start for finger in FINGERS])
PALM_FINGERS = ("index", "middle", "ring")  # their knuckles give the canonical frame
PINCHED_M = 0.015  # two tips of a person that are nearer than this touch
_PALM_KNUCKLES = KNUCKLES[[FINGERS.index(finger) for finger in PALM_FINGERS]]
_PALM_M = (0.05, 0.14)  # wrist to middle knuckle of people
_FINGERS = np.stack([np.arange(part.start, part.stop) for part in OF_FINGER.values()])
# Wrist to the root of each finger, then every bone of a finger: which points, and how long, in units of wrist to middle
# knuckle, of people and of gloves' skeletons, with room to spare.
_FROM = np.concatenate([np.zeros(5, int), _FINGERS[:, :3].ravel()])
_TO = np.concatenate([KNUCKLES, _FINGERS[:, 1:].ravel()])
_SHORTEST, _LONGEST = np.array([[0.1, 0.75, 0.9, 0.7, 0.6, *[0.03] * 15], [0.65, 1.3, 1.1, 1.25, 1.15, *[0.85] * 15]])
_BESIDE = 0.05  # in that unit: every knuckle is beside the next one, from index to little, and the thumb at the index
_STRETCH = 2.3  # between the 5th and the 95th percentile of a bone's length: bones are rigid, webcams are not exact
_SOUND = 0.9  # of the frames of a recording must look like a hand
MANO = np.array([0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20])  # its points in our order
MIXED_UP = (
    "the bones are not a hand's; expected the wrist, then thumb, index, middle, ring and little finger, each from root "
    "to tip"
)


def check_keypoints(points: np.ndarray) -> None:
    """Raises ValueError where a recording [T, 21, 3] is no right hand in metres; non-finite frames are passed over."""
    if points.ndim != 3 or points.shape[1:] != (NUM_POINTS, 3) or not len(points):
        raise ValueError(f"key points: expected an array [frames, 21, 3], got {list(points.shape)}")
    finite = points[np.isfinite(points).all(axis=(1, 2))]
    if not len(finite):
        raise ValueError(f"key points: none of the {len(points)} frames is finite; check the glove's connection")
    size = float(np.median(np.linalg.norm(finite[:, KNUCKLES[2]] - finite[:, 0], axis=-1)))
    if not _PALM_M[0] <= size <= _PALM_M[1]:
        factor = next((f for f in (1000.0, 100.0) if _PALM_M[0] <= size / f <= _PALM_M[1]), None)
        hint = f"; divide by {factor:g}: they look like {'mm' if factor == 1000.0 else 'cm'}" if factor else ""
        raise ValueError(
            f"key points: expected metres, {_PALM_M[0]:g} to {_PALM_M[1]:g} from wrist to middle knuckle, "
            f"got {size:.3g}{hint}"
        )
    if not _in_order(finite):
        hint = f"; this looks like MANO's order: take points[:, {MANO.tolist()}]" if _in_order(finite[:, MANO]) else ""
        raise ValueError(f"key points: {MIXED_UP}{hint}")
    if _bends_backwards(to_canonical(finite), size):
        raise ValueError(
            "key points: the fingers bend out of the back of a right hand; this looks like a left hand: mirror it "
            "(negate one axis) or name the right side"
        )


def fault_of(points: np.ndarray) -> str:
    """Why one frame [21, 3] m in a glove's frame should not move a robot, "" where nothing is wrong."""
    return canonical_or_fault(points)[1]


def canonical_or_fault(points: np.ndarray) -> tuple[np.ndarray, str]:
    """(one frame [21, 3] m in the canonical frame, `fault_of` it): with a fault, not to be used."""
    if not np.isfinite(points).all():
        return points, f"{int((~np.isfinite(points).all(axis=-1)).sum())} key points not finite"
    size = float(np.linalg.norm(points[KNUCKLES[2]] - points[0]))
    if not _PALM_M[0] <= size <= _PALM_M[1]:
        return points, f"{size:.3g} m from wrist to middle knuckle; expected {_PALM_M[0]:g} to {_PALM_M[1]:g}"
    with np.errstate(invalid="ignore"):
        canonical = to_canonical(points)
    if not np.isfinite(canonical).all():
        return points, "the knuckles of index, middle and ring are in one point or line with the wrist"
    if not _is_hand(canonical):
        return points, MIXED_UP
    return canonical, "fingers bend out of the back: a left hand?" if _bends_backwards(canonical, size) else ""


def _in_order(points: np.ndarray) -> bool:
    with np.errstate(invalid="ignore", divide="ignore"):
        sound = float(_is_hand(to_canonical(points)).mean())
    bones = np.linalg.norm(points[:, _TO[5:]] - points[:, _FROM[5:]], axis=-1)
    shortest, longest = np.percentile(bones, [5, 95], axis=0)
    return sound >= _SOUND and bool((longest <= _STRETCH * shortest).all())


def _is_hand(canonical: np.ndarray) -> np.ndarray:
    """bool [...]: whether points [..., 21, 3] m in the canonical frame are where a palm and fingers have them."""
    unit = canonical[..., KNUCKLES[2], 2, None]
    bones, beside = canonical[..., _TO, :] - canonical[..., _FROM, :], canonical[..., KNUCKLES, 1]
    lengths = np.sqrt((bones * bones).sum(axis=-1))
    fits = (lengths > _SHORTEST * unit) & (lengths < _LONGEST * unit)
    in_a_row = beside[..., 1:-1] - beside[..., 2:] > _BESIDE * unit
    return fits.all(axis=-1) & in_a_row.all(axis=-1) & (beside[..., 0] > 0.0)


def _bends_backwards(canonical: np.ndarray, size: float) -> bool:
    return bool((canonical[..., TIPS[1:4], 0] - canonical[..., _PALM_KNUCKLES, 0] < -0.2 * size).mean() > 0.5)


def to_canonical(points: np.ndarray) -> np.ndarray:
    """Key points [..., 21, 3] in the hand's canonical frame."""
    centred = points - points[..., :1, :]
    return centred @ canonical_axes(centred[..., _PALM_KNUCKLES, :])


def canonical_axes(knuckles: np.ndarray) -> np.ndarray:
    """Axes x, y, z as columns [..., 3, 3], from the index, middle and ring knuckles [..., 3, 3] seen from the wrist."""
    index, middle, ring = np.moveaxis(knuckles, -2, 0)
    z = middle / np.linalg.norm(middle, axis=-1, keepdims=True)
    across = index - ring
    y = across - (across * z).sum(axis=-1, keepdims=True) * z
    y /= np.linalg.norm(y, axis=-1, keepdims=True)
    # np.cross takes five times as long.
    x = y[..., [1, 2, 0]] * z[..., [2, 0, 1]] - y[..., [2, 0, 1]] * z[..., [1, 2, 0]]
    return np.stack([x, y, z], axis=-1)


def bending(points: np.ndarray, finger: str) -> np.ndarray:
    """Summed bending [...] rad of a finger's three joints: the angles between its segments, wrist to tip."""
    chain = np.concatenate([points[..., :1, :], points[..., OF_FINGER[finger], :]], axis=-2)
    segments = np.diff(chain, axis=-2)
    segments /= np.linalg.norm(segments, axis=-1, keepdims=True)
    cosines = (segments[..., :-1, :] * segments[..., 1:, :]).sum(axis=-1)
    return np.arccos(np.clip(cosines, -1.0, 1.0)).sum(axis=-1)


def hand_size(points: np.ndarray) -> float:
    """m from a person's wrist along index, middle and ring to their tips, the mean; key points [T, 21, 3], finite."""
    chains = np.stack([np.concatenate([points[:, :1], points[:, OF_FINGER[f]]], axis=1) for f in PALM_FINGERS])
    return float(np.median(np.linalg.norm(np.diff(chains, axis=2), axis=-1).sum(axis=-1), axis=-1).mean())


def skeleton(points: np.ndarray) -> dict[str, np.ndarray]:
    """Finger -> [..., 5, 3] m, the line from the wrist over its joints to its tip, for pictures."""
    return {
        finger: np.concatenate([points[..., :1, :], points[..., joints, :]], axis=-2)
        for finger, joints in OF_FINGER.items()
    }


def gesture_frames(clip: np.ndarray, fingers: Sequence[str] = FINGERS) -> dict[str, int]:
    """Frames of `clip` [T, 21, 3] that show the canonical gestures best: open, fist, and a pinch with each finger."""
    bent = np.mean([bending(clip, finger) for finger in PALM_FINGERS], axis=0)
    gaps = np.linalg.norm(clip[:, TIPS] - clip[:, TIPS[:1]], axis=-1).argmin(axis=0)
    pinches = {f"pinch {finger}": int(gaps[FINGERS.index(finger)]) for finger in fingers if finger != "thumb"}
    return {"open": int(bent.argmin()), "fist": int(bent.argmax()), **pinches}
