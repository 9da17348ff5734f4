"""How good a retargeting is: one number per thing that goes wrong in teleoperation. NumPy and SciPy only.

A method maps key points [T, 21, 3] m of a right hand, canonical frame, one clip in order, to motor angles [T, m] rad;
it starts afresh at every call. Robot positions are in the robot's own canonical frame, human ones times `scale`.
"""

from collections.abc import Callable

import numpy as np
from scipy.spatial import KDTree

from dexhil.retargeting.hand import PAD_RADIUS_M
from dexhil.retargeting.keypoints import PALM_FINGERS, PINCHED_M, TIPS, bending
from dexhil.retargeting.kinematics import CanonicalHand

Method = Callable[[np.ndarray], np.ndarray]

CONTACT_M = 0.005  # between the robot's pads
SMALL_M = 0.005  # no human tip moves as far in a small motion
PROBE_M, PROBES = 0.005, 300
SWEEPS, SWEEP_STEPS = 3, 300
VOXEL_M, REACHED_M, REACH_SAMPLES = 0.005, 0.020, 60_000
FIST, OPEN = 0.8, 0.2  # of the 99th percentile of a person's bending
LAGS = 15


def score(
    method: Method,
    clip: np.ndarray,
    robot: CanonicalHand,
    scale: float,
    *,
    held: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Every metric of a method on a clip [T, 21, 3], by the names of the benchmark's report.

    Only frames of `held`, bool [T], count, but the method, coverage, lag and a person's habits are of the whole clip.
    """
    held = np.ones(len(clip), bool) if held is None else held
    motors = method(clip)
    human, tips = scale * human_tips(clip, robot), robot.tips(motors)
    jump, hysteresis = pinch_sweep(method, clip, robot, held)
    fist, open_hand = bending_scores(clip, motors, robot, held)
    return {
        "tip_error_mm": 1e3 * float(np.linalg.norm(tips - human, axis=-1)[held].mean()),
        "pinch_contact": pinch_contact(clip[held], motors[held], robot),
        "max_step_mm": 1e3 * largest_small_step(clip, tips, robot, held),
        "sweep_jump_mm": 1e3 * jump,
        "sweep_hysteresis_mm": 1e3 * hysteresis,
        "fist_completeness": fist,
        "open_hand_error_deg": float(np.degrees(open_hand)),
        "coverage": coverage(tips, robot.tips(robot.random_motors(seed, REACH_SAMPLES))),
        "motion_preservation": motion_preservation(method, clip[held], robot, seed),
        "jerk_gain": float(_jerk(tips, held) / _jerk(human, held)),
        "lag_frames": float(lag(human, tips)),
    }


def human_tips(clip: np.ndarray, robot: CanonicalHand) -> np.ndarray:
    """Tips [T, F, 3] m of the fingers that the robot has."""
    return clip[:, TIPS[robot.columns]]


def pinch_contact(clip: np.ndarray, motors: np.ndarray, robot: CanonicalHand) -> float:
    """Of the moments when thumb and a finger of the person are together, the fraction in which the robot's pads are."""
    pinched = thumb_distances(human_tips(clip, robot)) < PINCHED_M
    touching = thumb_distances(robot.pads(motors)) - 2 * PAD_RADIUS_M < CONTACT_M
    return float(touching[pinched].mean()) if pinched.any() else float("nan")


def largest_small_step(clip: np.ndarray, tips: np.ndarray, robot: CanonicalHand, held: np.ndarray) -> float:
    """m: the furthest that a robot tip moves in a frame in which no human tip moves SMALL_M."""
    small = (_steps(human_tips(clip, robot)) < SMALL_M) & _runs(held, 2)
    return float(_steps(tips)[small].max(initial=0.0))


def pinch_sweep(method: Method, clip: np.ndarray, robot: CanonicalHand, held: np.ndarray) -> tuple[float, float]:
    """(largest robot step per 0.5 mm of human step, largest difference there and back), m, over SWEEPS pinches each."""
    opened = clip[int(np.argmin(_human_bending(clip)))]
    there = np.linspace(0.0, 1.0, SWEEP_STEPS + 1)
    fraction = np.concatenate([there, there[-2::-1]])[:, None, None]
    jump = hysteresis = 0.0
    for gap in thumb_distances(human_tips(clip, robot)).T:
        pinched = np.flatnonzero((gap < PINCHED_M) & held)
        for frame in pinched[np.linspace(0, len(pinched) - 1, min(SWEEPS, len(pinched))).astype(int)]:
            path = opened + fraction * (clip[frame] - opened)
            tips = robot.tips(method(path))
            step = np.maximum(_steps(human_tips(path, robot)), 1e-9)
            jump = max(jump, float((_steps(tips) * 0.0005 / step).max()))
            hysteresis = max(hysteresis, float(np.linalg.norm(tips - tips[::-1], axis=-1).max()))
    return jump, hysteresis


def bending_scores(clip: np.ndarray, motors: np.ndarray, robot: CanonicalHand, held: np.ndarray) -> tuple[float, float]:
    """(robot's bending over the person's in fists, their absolute difference in open hands, rad per finger)."""
    human = _human_bending(clip)
    ours = np.mean([robot.bending(motors, finger) for finger in PALM_FINGERS], axis=0)
    most = np.percentile(human, 99)
    fist, opened = (human > FIST * most) & held, (human < OPEN * most) & held
    if not (fist.any() and opened.any()):
        return float("nan"), float("nan")
    return float(ours[fist].mean() / human[fist].mean()), float(abs(ours[opened].mean() - human[opened].mean()))


def _human_bending(clip: np.ndarray) -> np.ndarray:
    return np.mean([bending(clip, finger) for finger in PALM_FINGERS], axis=0)


def coverage(tips: np.ndarray, reachable: np.ndarray) -> float:
    """Fraction of the voxels that robot tips can reach [N, F, 3] with a visited one [T, F, 3] near; GeoRT's measure."""
    fractions = []
    for finger in range(tips.shape[1]):
        voxels = np.unique(np.round(reachable[:, finger] / VOXEL_M), axis=0) * VOXEL_M
        distance, _ = KDTree(tips[:, finger]).query(voxels, distance_upper_bound=REACHED_M)
        fractions.append(np.isfinite(distance).mean())
    return float(np.mean(fractions))


def motion_preservation(method: Method, clip: np.ndarray, robot: CanonicalHand, seed: int) -> float:
    """Mean cosine between a probe, one finger's tip moved by PROBE_M any way, and what the robot's tip does."""
    rng = np.random.default_rng(seed)
    frames = clip[rng.integers(len(clip), size=PROBES)]
    before, cosines = robot.tips(method(frames)), []
    for finger, column in enumerate(robot.columns):
        way = rng.normal(size=(PROBES, 3))
        way /= np.linalg.norm(way, axis=-1, keepdims=True)
        probed = frames.copy()
        probed[:, TIPS[column]] += PROBE_M * way
        moved = robot.tips(method(probed))[:, finger] - before[:, finger]
        cosines.append((moved * way).sum(axis=-1) / np.maximum(np.linalg.norm(moved, axis=-1), 1e-9))
    return float(np.mean(cosines))


def lag(human: np.ndarray, tips: np.ndarray) -> int:
    """Frames by which the robot's motion follows the person's: where the velocities correlate best."""
    mine, theirs = np.diff(human, axis=0).ravel(), np.diff(tips, axis=0)
    size = human[0].size
    fits = [np.corrcoef(mine[: mine.size - shift * size], theirs[shift:].ravel())[0, 1] for shift in range(LAGS)]
    return int(np.argmax(fits))


def thumb_distances(positions: np.ndarray) -> np.ndarray:
    """Distances [T, F - 1] m of the fingers' points [T, F, 3] from the thumb's, which comes first."""
    return np.linalg.norm(positions[:, 1:] - positions[:, :1], axis=-1)


def _steps(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(positions, axis=0), axis=-1).max(axis=-1)


def _jerk(positions: np.ndarray, held: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(positions, n=3, axis=0), axis=-1)[_runs(held, 4)].mean())


def _runs(held: np.ndarray, length: int) -> np.ndarray:
    return np.asarray(np.lib.stride_tricks.sliding_window_view(held, length).all(axis=-1))
