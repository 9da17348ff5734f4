"""A person's hand recorded for the trainer: what came, what was wrong with it, and what to show next. NumPy only."""

import dataclasses
from pathlib import Path

import numpy as np

from dexhil.retargeting.keypoints import NUM_POINTS, PALM_FINGERS, PINCHED_M, TIPS, bending, check_keypoints
from dexhil.robots.geometry import FINGERS

OPEN_RAD, FIST_RAD = np.radians(40.0), np.radians(180.0)  # summed bending of a finger's three joints
SHOWN_S = 1.0  # for so long, in all, a gesture must be seen
LOST_PERIODS = 3.0  # a gap this many usual periods long counts as lost frames
GESTURES = {
    "open": "open your hand wide",
    "fist": "make a fist",
    **{f"pinch {finger}": f"touch thumb and {finger} finger, in several places" for finger in FINGERS[1:]},
}


@dataclasses.dataclass
class Recording:
    """Key points of one person as they arrive. shown_s: how long each of GESTURES was seen, s."""

    times: list[float] = dataclasses.field(default_factory=list)
    frames: list[np.ndarray] = dataclasses.field(default_factory=list)
    shown_s: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(GESTURES, 0.0))
    broken: int = 0
    frozen: int = 0

    def add(self, time_s: float, points: np.ndarray) -> None:
        """Takes a frame [21, 3] m of `time_s`; one that is not finite, or the last again, is only counted."""
        if points.shape != (NUM_POINTS, 3):
            raise ValueError(f"key points: expected frames of [{NUM_POINTS}, 3], got {list(points.shape)}")
        if not np.isfinite(points).all():
            self.broken += 1
            return
        points = points.astype(np.float32)
        if self.frames and np.array_equal(points, self.frames[-1]):
            self.frozen += 1
            return
        if self.times:
            lasted = min(time_s - self.times[-1], 0.1)
            for gesture in gestures_of(points):
                self.shown_s[gesture] += lasted
        self.times.append(time_s)
        self.frames.append(points)

    @property
    def missing(self) -> list[str]:
        """Gestures that were not seen for long enough."""
        return [gesture for gesture, shown in self.shown_s.items() if shown < SHOWN_S]

    @property
    def guidance(self) -> str:
        """What the person should do now."""
        return GESTURES[self.missing[0]] if self.missing else "move freely: every finger, every way, spread and bent"

    def summary(self) -> dict[str, float]:
        """rate_hz: median; lost: frames that the gaps would have held; broken, frozen: frames left out."""
        periods = np.diff(self.times)
        usual = float(np.median(periods)) if len(periods) else float("nan")
        gaps = periods[periods > LOST_PERIODS * usual]
        return {
            "frames": len(self.frames),
            "seconds": self.times[-1] - self.times[0] if self.times else 0.0,
            "rate_hz": 1.0 / usual,
            "lost": float((gaps / usual - 1.0).sum().round()),
            "broken": self.broken,
            "frozen": self.frozen,
        }

    def save(self, path: Path) -> None:
        """Writes the clip [T, 21, 3] m that the trainer reads. Raises ValueError, the file kept, where it is no right
        hand in metres, and without a file where nothing came.
        """
        if not self.frames:
            raise ValueError(f"key points: no usable frame came ({self.broken} not finite, {self.frozen} frozen)")
        clip = np.stack(self.frames)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, clip)
        try:
            check_keypoints(clip.astype(np.float64))
        except ValueError as error:
            raise ValueError(f"{path} is kept, but not fit for training: {error}") from None


def gestures_of(points: np.ndarray) -> list[str]:
    """Which of GESTURES one frame [21, 3] m shows."""
    bent = np.mean([bending(points, finger) for finger in PALM_FINGERS])
    found = [name for name, shows in (("open", bent < OPEN_RAD), ("fist", bent > FIST_RAD)) if shows]
    gaps = np.linalg.norm(points[TIPS[1:]] - points[TIPS[0]], axis=-1)
    return found + [f"pinch {finger}" for finger, gap in zip(FINGERS[1:], gaps, strict=True) if gap < PINCHED_M]
