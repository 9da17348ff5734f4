"""Where the arm may come to rest: a box for the pinch point, above the table, and clear of the arm itself.

Conservative and coarse: links are capsules around `dexhil.robots.geometry`'s kinematics, fingers are their tips. Pure
NumPy. It knows no obstacles but the table and the arm.
"""

import dataclasses

import numpy as np

from dexhil.robots.geometry import ee_of_palm, finger_tips, fr3_joint_frames

# Capsules: between which of `_points`, and how thick (m).
_ENDS = {"base": (0, 1), "upper arm": (1, 4), "forearm": (4, 5), "wrist": (6, 7), "flange": (7, 8), "palm": (8, 9)}
_RADII = {"base": 0.09, "upper arm": 0.09, "forearm": 0.065, "wrist": 0.065, "flange": 0.060, "palm": 0.055}
# Links that touch each other at a joint cannot be told from a collision by capsules; all other pairs that can meet.
_PAIRS = (
    ("forearm", "base"), ("wrist", "base"), ("flange", "base"), ("palm", "base"),
    ("wrist", "upper arm"), ("flange", "upper arm"), ("palm", "upper arm"), ("palm", "forearm"),
)  # fmt: skip
_ABOVE_TABLE = ("forearm", "wrist", "flange", "palm")
_PALM_M = 0.12  # of the palm's length from the flange; fingers begin behind it
CAUSES = ("workspace", "table", "self_collision")


@dataclasses.dataclass(frozen=True)
class Box:
    """Where the arm may come to rest.

    Attributes:
        lower: [3] m, of the pinch point `ee` in the base frame.
        upper: [3] m, the same.
        table_z: m, height of the table.
        tips_m: m above the table that finger tips must stay at rest; below 0 for a hand that presses on it.
    """

    lower: np.ndarray = dataclasses.field(default_factory=lambda: np.array([0.25, -0.45, -0.01]))
    upper: np.ndarray = dataclasses.field(default_factory=lambda: np.array([0.80, 0.45, 0.75]))
    table_z: float = 0.0
    tips_m: float = -0.01


def depths(q_arm: np.ndarray, q_hand: np.ndarray, box: Box) -> np.ndarray:
    """How deep the robot is inside of what it must keep out of.

    Args:
        q_arm: [..., 7] rad.
        q_hand: [..., 12] rad.
        box: the place that is allowed.

    Returns:
        [..., 3] m in the order of CAUSES; negative: the clearance.
    """
    frames = fr3_joint_frames(q_arm)
    ee, rotation = ee_of_palm(frames[..., -1, :, :])
    beyond = np.maximum(box.lower - ee, ee - box.upper).max(-1)
    points = _points(frames)
    lowest = [points[list(_ENDS[name])][..., 2].min(0) - _RADII[name] for name in _ABOVE_TABLE]
    flange = frames[..., -1, :3, 3]
    tips = flange[..., None, :] + finger_tips(q_hand) @ np.swapaxes(rotation, -1, -2)
    into_table = box.table_z - np.minimum(np.min(lowest, 0), tips[..., 2].min(-1) - box.tips_m)
    return np.stack([beyond, into_table, _overlap(points)], -1)


def _points(frames: np.ndarray) -> np.ndarray:
    """[10, ..., 3] m: the base, the origins of the joints and the flange, the end of the palm."""
    origins = np.moveaxis(frames[..., :3, 3], -2, 0)
    palm = frames[..., -1, :3, 3] + _PALM_M * frames[..., -1, :3, 2]
    return np.concatenate([np.zeros_like(origins[:1]), origins, palm[None]])


def _overlap(points: np.ndarray) -> np.ndarray:
    """[...] m: how deep the two links that are nearest to each other overlap."""
    a0, a1, b0, b1 = (points[[_ENDS[pair[side]][end] for pair in _PAIRS]] for side in (0, 1) for end in (0, 1))
    radii = np.array([_RADII[first] + _RADII[second] for first, second in _PAIRS])
    distance = segment_distance(a0, a1, b0, b1)
    return (radii.reshape(-1, *[1] * (distance.ndim - 1)) - distance).max(0)


def segment_distance(a0: np.ndarray, a1: np.ndarray, b0: np.ndarray, b1: np.ndarray) -> np.ndarray:
    """Least distance [...] m of segments with ends [..., 3]. Source: Ericson, Real-Time Collision Detection, 5.1.9."""
    u, v, w = a1 - a0, b1 - b0, a0 - b0
    uu, vv, uv = ((x * y).sum(-1) for x, y in ((u, u), (v, v), (u, v)))
    uw, vw = ((x * w).sum(-1) for x in (u, v))
    uu, vv = np.maximum(uu, 1e-12), np.maximum(vv, 1e-12)
    parallel = uu * vv - uv * uv
    s = np.where(parallel > 1e-12, np.clip((uv * vw - vv * uw) / np.maximum(parallel, 1e-12), 0, 1), 0.0)
    t = np.clip((uv * s + vw) / vv, 0, 1)
    s = np.clip((uv * t - uw) / uu, 0, 1)
    return np.linalg.norm(a0 + s[..., None] * u - b0 - t[..., None] * v, axis=-1)
