"""Chunk executor: which action is due, when to plan the next chunk, and what that chunk must go on from. NumPy only.

One object with a clock of the caller's, the same in a simulated trial, a supervised rollout and a robot's control loop:

    if (request := executor.request(observation_time)):     # None: not now, or one is under way
        start policy.infer(observation, seed=plan_seed(seed, step), **request.options)
    when it has ended: executor.add(request, chunk.actions, now)
    due = executor.due(now)                                 # None: nothing yet, the robot holds
    executor.rest(command)                                  # in a tick in which the policy does not command
    executor.watch()                                        # in a tick in which a person commands

Row i of a chunk is commanded at start + i / control_hz, with a straight line between rows. "replace": inference runs
while the last chunk is executed, and the new one takes over at what is due by then. "rtc": the same, but planned to go
on from what is executed meanwhile (real-time chunking). "sync": `execute_steps` actions, then a pause to plan.

Late chunks lose their first actions, and no plan replaces a newer one. A chunk planned at rest starts when it arrives,
since nothing has moved since its observation. After the end of a chunk its last action is held. What a chunk differs by
from the last command fades away, so that nothing jumps. Not thread-safe: hold a lock around the calls.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from dexhil.settings import Count, NotNegative, Settings

RtcChoice = Literal["none", "auto", "guided", "trained"]
LATENCIES = 10  # the longest of so many past inferences is what the next one is expected to take
_ROUNDING = 1e-6  # control periods


@dataclasses.dataclass(frozen=True)
class ExecutorConfig(Settings):
    """How chunks follow each other, in trials and on a robot."""

    execute_steps: Count = 8  # actions of a chunk to execute before the next is planned
    # What a chunk does that comes late: "replace", "rtc" (planned on from the last one) or "sync" (the robot waits).
    handover: Literal["sync", "replace", "rtc"] = "replace"
    rtc: RtcChoice = "auto"  # how "rtc" plans on from a prefix: "guided", "trained", or "auto" by the checkpoint
    fade_s: NotNegative = 0.15  # in which a new chunk's difference from the last command fades to 1/e; 0: at once

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> ExecutorConfig:
        """From a config's section, whose other keys are not looked at."""
        return cls(**{field.name: section[field.name] for field in dataclasses.fields(cls) if field.name in section})

    @property
    def policy_rtc(self) -> RtcChoice:
        """What to load the policy with."""
        return self.rtc if self.handover == "rtc" else "none"


DEFAULT = ExecutorConfig()


@dataclasses.dataclass(frozen=True)
class Request:
    """Plan now.

    Attributes:
        time: s, of the observation.
        epoch: a plan of an earlier one is stale.
        number: counts requests.
        at_rest: nothing is being executed.
        prefix: [R, A] rad, what the chunk must go on from; None to plan freely.
        delay: d, so many of them will be executed before the chunk is there.
    """

    time: float
    epoch: int
    number: int
    at_rest: bool
    prefix: np.ndarray | None = None
    delay: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of `Policy.infer`."""
        return {} if self.prefix is None else {"prefix": self.prefix, "delay": self.delay}


@dataclasses.dataclass(frozen=True)
class Due:
    """What to command now.

    Attributes:
        action: [A] rad.
        planned: [A] rad, the policy's own, without what still fades.
        starved: the chunk has ended and its last action is held.
    """

    action: np.ndarray
    planned: np.ndarray
    starved: bool = False


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """actions [H, A]; row i is due at start + i / hz. offset: [A] rad, added at `since` (s) and fading from then on."""

    actions: np.ndarray
    start: float
    hz: float
    offset: np.ndarray | None = None
    since: float = 0.0
    fade_s: float = 0.0

    def position(self, t: float) -> float:
        """Rows since the start; on a row's own time exactly its number."""
        at = (t - self.start) * self.hz
        return float(round(at)) if abs(at - round(at)) < _ROUNDING else at

    def ended(self, t: float) -> bool:
        return self.position(t) >= len(self.actions)

    def planned(self, t: float) -> np.ndarray:
        at = min(max(self.position(t), 0.0), len(self.actions) - 1.0)
        row = int(at)
        if at == row:
            return self.actions[row]
        return ((row + 1 - at) * self.actions[row] + (at - row) * self.actions[row + 1]).astype(np.float32)

    def action(self, t: float) -> np.ndarray:
        planned = self.planned(t)
        if self.offset is None or self.fade_s == 0.0:
            return planned
        return (planned + self.offset * math.exp(-max(t - self.since, 0.0) / self.fade_s)).astype(np.float32)


class Executor:
    """The chunk that is being executed, and the latency of planning.

    Args:
        control_hz: 1/s, rate of a chunk's rows.
        config: how chunks follow each other.
        latency_s: first guess of what an inference takes, observation to chunk; measured from then on.
        max_delay: actions of a prefix that the policy takes at most (`Policy.max_delay`), None: half a chunk; where the
            latency is longer, "rtc" plans freely, as "replace" does.
    """

    def __init__(
        self,
        control_hz: float,
        config: ExecutorConfig = DEFAULT,
        *,
        latency_s: float = 0.0,
        max_delay: int | None = None,
    ) -> None:
        if not control_hz > 0:
            raise ValueError(f"control_hz: expected a positive rate, got {control_hz}")
        self.config, self.max_delay = config, max_delay
        self.pending: Request | None = None
        self._hz = control_hz
        self._latencies = collections.deque([latency_s], maxlen=LATENCIES)
        self._chunk: _Chunk | None = None
        self._command: np.ndarray | None = None
        self._epoch, self._number = 0, 0
        self._resting, self._watching = True, False
        self._now = -math.inf

    @property
    def delay(self) -> int:
        """Control steps that the next inference is expected to take."""
        return max(0, math.ceil(max(self._latencies) * self._hz - _ROUNDING))

    def rest(self, command: np.ndarray) -> None:
        """Drops the plan, as the policy does not command; the next begins at `command` [A] rad, where the robot is."""
        self._command, self._watching = command, False
        if not self._resting:
            self._drop()

    def restart(self) -> None:
        """Drops all that was planned, at rest too: the scene is another one."""
        self._drop()

    def watch(self) -> None:
        """A person commands now: plans go on as if the policy watched, for the record and for what it may keep."""
        self._watching, self._resting = True, False

    def request(self, observed: float) -> Request | None:
        """Whether to plan from an observation made at `observed`; None too while a request waits for its answer."""
        if self.pending is not None:
            return None
        chunk = self._chunk
        if chunk is None or chunk.ended(observed):
            return self._ask(observed, at_rest=not self._watching)
        length, at = len(chunk.actions), chunk.position(observed)
        handover = "replace" if self._watching else self.config.handover
        # At the latest so that the new chunk arrives before this one ends.
        if handover == "sync" or at < min(max(self.config.execute_steps, self.delay), length - self.delay):
            return None
        max_delay = length // 2 if self.max_delay is None else self.max_delay
        if handover == "replace" or self.delay > max_delay:
            return self._ask(observed)
        rows = max(self.delay, math.ceil(length - at))
        prefix = np.array([chunk.action(observed + i / self._hz) for i in range(rows)], np.float32)
        return self._ask(observed, prefix=prefix, delay=self.delay)

    def add(self, request: Request, actions: np.ndarray, now: float) -> bool:
        """Takes over the chunk [H, A] that `request` asked for; False where it is stale, or late beyond its end.

        Raises:
            ValueError: `actions` is no chunk of at least `execute_steps` finite actions.
        """
        self.fail(request)
        check_chunk(actions, self.config.execute_steps)
        self._latencies.append(now - request.time)
        if request.epoch < self._epoch:
            return False
        if self.config.handover == "sync" and not self._watching:
            actions = actions[: self.config.execute_steps]
        start = now if request.at_rest and not self._watching else request.time
        chunk, old = _Chunk(np.asarray(actions), start, self._hz), self._chunk
        if chunk.ended(now) or (old is not None and start < old.start):
            return False
        before = self._command if old is None else old.action(now)
        if before is not None:
            chunk = dataclasses.replace(chunk, offset=before - chunk.planned(now), since=now, fade_s=self.config.fade_s)
        self._chunk, self._resting = chunk, False
        return True

    def fail(self, request: Request) -> None:
        """`request` will not be answered, or has been: the next one may be made."""
        if self.pending is not None and request.number >= self.pending.number:
            self.pending = None

    def due(self, now: float) -> Due | None:
        """What to command at `now`; None before the first chunk. Never older than what was asked for before."""
        if self._chunk is None:
            return None
        self._now = max(now, self._now)
        return Due(self._chunk.action(self._now), self._chunk.planned(self._now), self._chunk.ended(self._now))

    def _ask(
        self, observed: float, *, at_rest: bool = False, prefix: np.ndarray | None = None, delay: int = 0
    ) -> Request:
        self._number += 1
        request = Request(observed, self._epoch, self._number, at_rest, prefix, delay)
        self._resting = self._resting and request.at_rest
        self.pending = request
        return request

    def _drop(self) -> None:
        self._epoch, self._chunk, self.pending, self._resting = self._epoch + 1, None, None, True


def check_chunk(actions: np.ndarray, execute_steps: int) -> None:
    """Raises ValueError unless `actions` is finite, [H, A], and holds `execute_steps`."""
    if actions.ndim != 2 or not np.isfinite(actions).all():
        raise ValueError(f"actions: expected a finite chunk [H, A], got {actions.dtype} {list(actions.shape)}")
    if len(actions) < execute_steps:
        raise ValueError(
            f"execute_steps: {execute_steps} is more than the policy's chunk of {len(actions)} actions; "
            f"set it to at most {len(actions)}"
        )


def plan_seed(seed: int, step: int) -> int:
    """A seed of its own for each plan of each trial, [0, 2^31). step: control steps since the trial began."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0] >> 1)
