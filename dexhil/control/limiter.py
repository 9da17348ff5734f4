"""Joint commands with bounded position, velocity, acceleration and jerk. Pure NumPy, one call per control tick.

A shield over discrete time: of the accelerations between what the goal asks for and hardest braking, each joint takes
the one nearest to the goal after which braking still stops it inside every limit. Braking is itself such a choice, so
the limits hold for any sequence of goals.
"""

import dataclasses
import math

import numpy as np

FRACTIONS = np.array([1.0, 0.75, 0.5, 0.25])[:, None]  # of the way from hardest braking to the goal's acceleration
APPROACH = 0.8  # of the braking curve, so that a joint arrives without overshoot
_AT_REST = 1e-6


@dataclasses.dataclass(frozen=True)
class MotionLimits:
    """Limits of n joints, each [n].

    Attributes:
        lower: rad.
        upper: rad.
        velocity: rad/s.
        acceleration: rad/s^2.
        jerk: rad/s^3.
    """

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray


@dataclasses.dataclass(frozen=True)
class Motion:
    """A commanded motion, each [..., n].

    Attributes:
        q: rad.
        v: rad/s, discrete derivative of the last ticks.
        a: rad/s^2, the same.
    """

    q: np.ndarray
    v: np.ndarray
    a: np.ndarray


class Limiter:
    """The commands of n joints, one every `period_s`; `reset` before the first."""

    def __init__(self, limits: MotionLimits, period_s: float) -> None:
        self.limits, self.period_s = _as_float64(limits), period_s
        stop_s = limits.velocity / limits.acceleration + 3.0 * limits.acceleration / limits.jerk
        self._horizon = math.ceil(float(stop_s.max()) / period_s) + 10
        self.reset((limits.lower + limits.upper) / 2)

    def reset(self, q: np.ndarray) -> None:
        """At rest at q [n] rad. Outside the limits they are widened to it: from there only the way back is open."""
        q = np.asarray(q, np.float64).copy()
        self.motion = Motion(q, np.zeros_like(q), np.zeros_like(q))
        self._lower, self._upper = np.minimum(self.limits.lower, q), np.maximum(self.limits.upper, q)
        self._goal = q

    def towards(self, goal: np.ndarray, speed: float = 1.0) -> Motion:
        """The next motion towards `goal` [n] rad, to be taken with `accept`. speed: fraction of the velocity limits."""
        now, dt = self.motion, self.period_s
        goal = np.clip(np.asarray(goal, np.float64), self._lower, self._upper)
        wanted = self._wanted_acceleration(goal, speed)
        hardest = self._braking(now)
        choices = _moved(now, hardest + FRACTIONS * (wanted - hardest), dt)
        safe = self._stops_inside(choices)
        self._goal = goal
        motion = _moved(now, hardest, dt)
        for k in reversed(range(len(FRACTIONS))):
            motion = _where(safe[k], Motion(choices.q[k], choices.v[k], choices.a[k]), motion)
        return motion

    def braking(self) -> Motion:
        """The next motion of the fastest stop."""
        return _moved(self.motion, self._braking(self.motion), self.period_s)

    def accept(self, motion: Motion) -> np.ndarray:
        """Takes a motion of `towards` or `braking`; returns the command q [n] rad."""
        self._lower = np.minimum(np.maximum(self._lower, motion.q), self.limits.lower)
        self._upper = np.maximum(np.minimum(self._upper, motion.q), self.limits.upper)
        self.motion = motion
        return motion.q.copy()

    def brake(self) -> np.ndarray:
        """Decelerates and holds; returns the command q [n] rad."""
        motion = self.braking()
        self._goal = motion.q
        return self.accept(motion)

    def rest_of(self, motion: Motion) -> np.ndarray:
        """Where the fastest stop from `motion` comes to rest, q [..., n] rad."""
        for _ in range(self._horizon):
            if self._at_rest(motion).all():
                break
            motion = _moved(motion, self._braking(motion), self.period_s)
        return motion.q

    def _wanted_acceleration(self, goal: np.ndarray, speed: float) -> np.ndarray:
        """Follows a goal that moves within the limits without lag, goes to one that jumped along a braking curve."""
        now, limits, dt = self.motion, self.limits, self.period_s
        goal_v = (goal - self._goal) / dt
        goal_v = np.where(np.abs(goal_v) <= limits.velocity, goal_v, 0.0)
        behind = goal - goal_v * dt - now.q
        catch_up = np.minimum(np.abs(behind) / dt, APPROACH * _stopping_speed(np.abs(behind), limits))
        wanted_v = np.clip(goal_v + np.sign(behind) * catch_up, -speed * limits.velocity, speed * limits.velocity)
        return _towards_velocity(wanted_v - now.v, now.a, limits, dt)

    def _braking(self, motion: Motion) -> np.ndarray:
        return _towards_velocity(-motion.v, motion.a, self.limits, self.period_s)

    def _stops_inside(self, motion: Motion) -> np.ndarray:
        """bool [..., n]: whether the fastest stop from here keeps to every limit and ends."""
        limits = self.limits
        inside = np.ones(motion.q.shape, bool)
        for _ in range(self._horizon):
            inside &= (motion.q >= self._lower) & (motion.q <= self._upper)
            inside &= np.abs(motion.v) <= limits.velocity
            if self._at_rest(motion).all():
                return inside
            motion = _moved(motion, self._braking(motion), self.period_s)
        return inside & self._at_rest(motion)

    def _at_rest(self, motion: Motion) -> np.ndarray:
        return (np.abs(motion.v) < _AT_REST) & (np.abs(motion.a) < _AT_REST / self.period_s)


def _towards_velocity(change: np.ndarray, a: np.ndarray, limits: MotionLimits, dt: float) -> np.ndarray:
    """The next acceleration [..., n] of a velocity `change`: ticks d, d - J dt, … remove d^2 / 2J + d dt / 2."""
    size = np.abs(change)
    ramp = limits.jerk * dt * (np.sqrt(0.25 + 2.0 * size / (limits.jerk * dt * dt)) - 0.5)
    wanted = np.where(size <= limits.jerk * dt * dt, size / dt, ramp)
    wanted = np.sign(change) * np.minimum(wanted, limits.acceleration)
    return np.clip(wanted, a - limits.jerk * dt, a + limits.jerk * dt)


def _stopping_speed(distance: np.ndarray, limits: MotionLimits) -> np.ndarray:
    """Speed [n] from which a joint stops within `distance` [n]: of distance = v (v / A + A / J) / 2."""
    ramp = limits.acceleration / limits.jerk
    return limits.acceleration * (np.sqrt(ramp**2 + 8.0 * distance / limits.acceleration) - ramp) / 2.0


def _moved(motion: Motion, a: np.ndarray, dt: float) -> Motion:
    v = motion.v + a * dt
    return Motion(motion.q + v * dt, v, a)


def _where(mask: np.ndarray, first: Motion, second: Motion) -> Motion:
    return Motion(
        np.where(mask, first.q, second.q), np.where(mask, first.v, second.v), np.where(mask, first.a, second.a)
    )


def _as_float64(limits: MotionLimits) -> MotionLimits:
    return MotionLimits(*(np.asarray(getattr(limits, field.name), np.float64) for field in dataclasses.fields(limits)))
