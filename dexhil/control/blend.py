"""A blended takeover: policy and person act together. An option, off by default.

Source: HandITL, arXiv 2605.15157, in a form of our own: arm and finger tips move from the policy's pose and the robot's
own tips as the person's have moved since the takeover; the hand is alpha * policy + (1 - alpha) * that.
"""

import numpy as np

from dexhil.robots.geometry import finger_tips
from dexhil.robots.poses import make_pose, rotation

_PROBE, _DAMPING, _LARGEST = 1e-4, 0.01, 0.1  # rad, m per rad, rad of one tick


def moved_pose(policy: np.ndarray, anchor: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`policy` [7] moved and turned, in the base frame, as `target` [7] is from `anchor` [7]."""
    rotated = rotation(target) * rotation(anchor).inv()
    return make_pose(policy[:3] + target[:3] - anchor[:3], rotated * rotation(policy))


def lead_tips(hand: np.ndarray, robot0: np.ndarray, human0: np.ndarray, human: np.ndarray) -> np.ndarray:
    """The robot's hand [m] rad, one step of damped least squares nearer to tips that have moved as the person's have.

    Args:
        hand: [m] rad, the robot's now.
        robot0: [m] rad, the robot's when the takeover began.
        human0: [m] rad, the person's then.
        human: [m] rad, the person's now.
    """
    now = finger_tips(hand)
    missing = finger_tips(robot0) + finger_tips(human) - finger_tips(human0) - now
    probes = [finger_tips(hand + step) for step in _PROBE * np.eye(len(hand))]
    slope = np.stack([(tips - now).ravel() / _PROBE for tips in probes], axis=1)
    rows = np.vstack([slope, _DAMPING * np.eye(len(hand))])
    step = np.linalg.lstsq(rows, np.concatenate([missing.ravel(), np.zeros(len(hand))]), rcond=None)[0]
    return hand + np.clip(step, -_LARGEST, _LARGEST)
