"""What every command passes before an actuator hears of it. Pure. NOT safety-rated: see docs/safety.md."""

import dataclasses
from typing import Any

import numpy as np

from dexhil.control.guard import CAUSES, Box, depths
from dexhil.control.limiter import Limiter, Motion, MotionLimits
from dexhil.control.limits import UnsafeCommandError, check_command
from dexhil.robots.spec import RobotSpec
from dexhil.schema import ARM_DOF
from dexhil.settings import Fraction, NotNegative, Positive, Settings

NOTICED_RAD = 0.02  # a command this far from what was asked for counts as an intervention of the limits
_GAP_S = 0.3  # a cause that comes back sooner is still the same intervention


@dataclasses.dataclass(frozen=True)
class SafetySettings(Settings):
    """Limits of what is commanded and of how old a reading may be."""

    box: Box = dataclasses.field(default_factory=Box)  # of the pinch point
    velocity_fraction: Fraction = 0.8  # of the robot's own limits
    arm_acceleration: Positive = 10.0  # rad/s^2, FR3's own
    arm_jerk: Positive = 300.0  # rad/s^3; FR3 allows 5,000
    hand_acceleration: Positive = 40.0  # rad/s^2
    hand_jerk: Positive = 2000.0  # rad/s^3
    position_margin: NotNegative = 0.02  # rad kept from the arm joints' ends
    watchdog_periods: Positive = 3.0  # a reading is too old after so many periods of its device,
    watchdog_min_s: Positive = 0.1  # s, but never before
    soft_start_s: NotNegative = 1.0  # speed rises to full after a start, an emergency stop and a lost device


def motion_limits(spec: RobotSpec, part: slice, settings: SafetySettings) -> MotionLimits:
    """Limits of the arm's or the hand's joints."""
    arm = part.start == 0
    joints = len(spec.lower[part])
    margin = settings.position_margin if arm else 0.0  # a hand's ends are stops that it may rest at
    return MotionLimits(
        lower=spec.lower[part].astype(np.float64) + margin,
        upper=spec.upper[part].astype(np.float64) - margin,
        velocity=settings.velocity_fraction * spec.max_velocity[part].astype(np.float64),
        acceleration=np.full(joints, settings.arm_acceleration if arm else settings.hand_acceleration),
        jerk=np.full(joints, settings.arm_jerk if arm else settings.hand_jerk),
    )


class SafetyLog:
    """Interventions as spans: {"cause", "detail", "begin", "end", "ticks", "worst"}, times monotonic s."""

    def __init__(self) -> None:
        self._open: dict[str, dict[str, Any]] = {}
        self._closed: list[dict[str, Any]] = []

    def note(self, now: float, cause: str, detail: str, size: float = 0.0) -> bool:
        """One tick of an intervention; whether it is a new one. size: by how much, in the cause's unit."""
        span = self._open.get(cause)
        if span is not None and now - span["end"] <= _GAP_S:
            span.update(end=now, ticks=span["ticks"] + 1, worst=max(span["worst"], float(size)))
            return False
        if span is not None:
            self._closed.append(self._open.pop(cause))
        span = {"cause": cause, "detail": detail, "begin": now, "end": now, "ticks": 1, "worst": float(size)}
        self._open[cause] = span
        return True

    def take(self, now: float, *, all_of_them: bool = False) -> list[dict[str, Any]]:
        """Spans that ended since the last call. all_of_them: those still open too, as an episode ends."""
        for cause in list(self._open):
            if all_of_them or now - self._open[cause]["end"] > _GAP_S:
                self._closed.append(self._open.pop(cause))
        taken, self._closed = self._closed, []
        return taken


class SafetyLayer:
    """Commands [A] rad of one robot. The arm's are made on arm ticks, the hand's on all.

    Attributes:
        estopped: why the emergency stop is latched, "" where it is not.
        blocked: why the guard stops what the arm was last asked for, "" where it lets it pass.
    """

    def __init__(self, spec: RobotSpec, settings: SafetySettings, *, arm_hz: float, hand_hz: float) -> None:
        self.spec, self.settings, self.log = spec, settings, SafetyLog()
        self.arm = Limiter(motion_limits(spec, slice(0, ARM_DOF), settings), 1.0 / arm_hz)
        self.hand = Limiter(motion_limits(spec, slice(ARM_DOF, None), settings), 1.0 / hand_hz)
        self.estopped = self.blocked = ""
        self._soft_since = -np.inf
        self.reset(spec.home, 0.0)

    def reset(self, command: np.ndarray, now: float) -> None:
        """At rest at `command` [A] rad, and slow at first."""
        self.arm.reset(command[:ARM_DOF])
        self.hand.reset(command[ARM_DOF:])
        self._soft_since = now

    def estop(self, why: str) -> None:
        """Latches the emergency stop. Until `clear` every command brakes, then holds."""
        self.estopped = self.estopped or why

    def clear(self, now: float) -> None:
        """Takes the emergency stop back; motion starts softly."""
        self.estopped, self._soft_since = "", now

    @property
    def command(self) -> np.ndarray:
        """float32 [A] rad, the last one."""
        return _joined(self.arm.motion.q, self.hand.motion.q)

    def resting_point(self) -> np.ndarray:
        """float32 [A] rad, where the fastest stop from now would come to rest."""
        return _joined(self.arm.rest_of(self.arm.motion), self.hand.rest_of(self.hand.motion))

    def brake(self, arm_due: bool) -> np.ndarray:
        """The next command of the fastest stop, float32 [A] rad."""
        if arm_due:
            self.arm.brake()
        self.hand.brake()
        return self.command

    def coasting(self, arm_due: bool) -> np.ndarray:
        """What `brake` would give now, without doing it."""
        arm = self.arm.braking().q if arm_due else self.arm.motion.q
        return _joined(arm, self.hand.braking().q)

    def limit(self, wanted: np.ndarray, now: float, arm_due: bool, speed: float = 1.0) -> np.ndarray:
        """The next command on the way to `wanted`, float32 [A] rad; brakes where that cannot be made safe.

        Args:
            wanted: [A] rad.
            now: s, monotonic.
            arm_due: this is an arm tick.
            speed: fraction of the velocity limits, as after a soft start.
        """
        if self.estopped:
            self.log.note(now, "estop", self.estopped)
            return self.brake(arm_due)
        try:
            check_command(wanted, self.spec)
        except UnsafeCommandError as error:
            self.log.note(now, "not_finite", str(error))
            return self.brake(arm_due)
        if arm_due:
            self._limit_part(self.arm, wanted[:ARM_DOF], now, 0, speed)
        self._limit_part(self.hand, wanted[ARM_DOF:], now, ARM_DOF, speed)
        return self.command

    def _limit_part(self, part: Limiter, wanted: np.ndarray, now: float, first: int, speed: float) -> None:
        motion = part.towards(wanted, min(speed, self._soft(now)))
        before, breach = part.motion.q, self._breach(part, motion)
        if part is self.arm:
            self.blocked = breach
        part.accept(part.braking() if breach else motion)
        if breach:
            cause, _, detail = breach.partition(": ")
            self.log.note(now, cause, detail)
        self._note_limits(part, wanted, before, now, first)

    def _note_limits(self, part: Limiter, wanted: np.ndarray, before: np.ndarray, now: float, first: int) -> None:
        short = np.abs(wanted - part.motion.q)
        worst = int(np.argmax(short))
        if short[worst] < NOTICED_RAD:
            return
        joint, asked = self.spec.joint_names[first + worst], float(wanted[worst])
        outside = not part.limits.lower[worst] - NOTICED_RAD <= asked <= part.limits.upper[worst] + NOTICED_RAD
        fast = abs(asked - before[worst]) / part.period_s > part.limits.velocity[worst]
        cause = "position" if outside else "velocity" if fast else "acceleration"
        self.log.note(now, cause, f"{joint}: asked for {asked:.3f} rad", float(short[worst]))

    def _breach(self, part: Limiter, motion: Motion) -> str:
        """'cause: detail' where stops of `part` from `motion`, and of the other part, would end where none may."""
        if part is self.hand and (motion.q == part.motion.q).all():
            return ""
        places = part.rest_of(Motion(*(np.stack([getattr(m, k) for m in (motion, part.motion)]) for k in "qva")))
        other = self.hand if part is self.arm else self.arm
        rest = np.broadcast_to(other.rest_of(other.motion), (2, len(other.motion.q)))
        q_arm, q_hand = (places, rest) if part is self.arm else (rest, places)
        then, now = depths(q_arm, q_hand, self.settings.box)
        least = -1e-6 if part is self.arm else 1e-9  # what a hand does not push deeper is not its to stop
        worse = np.where((then > 0.0) & (then > now + least), then, 0.0)
        if not worse.any():
            return ""
        index = int(np.argmax(worse))
        name = "arm" if part is self.arm else "hand"
        return f"{CAUSES[index]}: the {name} would come to rest {1e3 * then[index]:.0f} mm too far"

    def _soft(self, now: float) -> float:
        return float(np.clip((now - self._soft_since) / max(self.settings.soft_start_s, 1e-9), 0.02, 1.0))


def _joined(arm: np.ndarray, hand: np.ndarray) -> np.ndarray:
    return np.concatenate([arm, hand]).astype(np.float32)
