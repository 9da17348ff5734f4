"""Chunk hand-over: which action is due, when to plan the next chunk, and what that chunk must go on from. NumPy only.

Pure bookkeeping: no threads, no clock, no devices. One tick of a control loop, all times in seconds on one clock:

    queue.set_epoch(takeover_state.epoch)
    due = queue.due(now)                    # None: nothing yet, the robot holds
    if no inference is running and (request := queue.request(observation.timestamp)):
        start policy.infer(observation, seed=…, **request.options)
    when it has ended: queue.add(request, chunk.actions, now)

Hand-over modes. "replace": inference runs while the last chunk is executed, and the new chunk takes over at the action
that is due by then. "rtc": the same, but the new chunk is planned to go on from the actions that are executed meanwhile
(real-time chunking). "sync": the robot executes `execute_steps` actions, holds while it plans, and goes on.

Rules, whatever the mode. An action is due by its time, not by its count: late chunks lose their first actions. No
action older than the last executed one is ever returned. A chunk planned at rest (at the start, after a takeover, after
the last chunk ran out) starts at its first action when it arrives, since nothing has moved since its observation. After
the end of a chunk the last action is held. Not thread-safe: hold one lock around the calls.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

import numpy as np

HANDOVERS = ("sync", "replace", "rtc")
LATENCIES = 10  # the longest of so many past inferences is what the next one is expected to take
EARLY = 0.25  # control periods by which an action may be due early: timers jitter
_ROUNDING = 1e-6  # control periods


@dataclasses.dataclass(frozen=True)
class Request:
    """Plan now. time: s, of the observation. epoch: for which the plan holds. at_rest: nothing is being executed.

    prefix: [R, A] rad, what the chunk must go on from, None to plan freely; delay: d, so many of them will be executed
    before the chunk is there.
    """

    time: float
    epoch: int
    at_rest: bool
    prefix: np.ndarray | None = None
    delay: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of `Policy.infer`."""
        return {} if self.prefix is None else {"prefix": self.prefix, "delay": self.delay}


@dataclasses.dataclass(frozen=True)
class Due:
    """What to execute. action: [A] rad, due since `time` (s). epoch: for which it was planned.

    starved: the chunk has ended and `action` is its last executed one, held.
    """

    action: np.ndarray
    time: float
    epoch: int
    starved: bool = False


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """actions [H, A]; row i is due at start + i / control_hz."""

    actions: np.ndarray
    start: float


class ChunkQueue:
    """The chunk that is being executed, and the latency of planning.

    execute_steps: actions of a chunk to execute before the next is planned. latency_s: first guess of what an inference
    takes, observation to chunk; measured from then on. max_delay: actions of a prefix that the policy can take at most
    (`Policy.max_delay`); None: half a chunk. Where the latency is longer, "rtc" plans freely, as "replace" does.
    """

    def __init__(
        self,
        control_hz: float,
        *,
        execute_steps: int = 8,
        handover: str = "replace",
        latency_s: float = 0.0,
        max_delay: int | None = None,
    ) -> None:
        if not control_hz > 0:
            raise ValueError(f"control_hz: expected a positive rate, got {control_hz}")
        if execute_steps < 1:
            raise ValueError(f"execute_steps: expected at least 1, got {execute_steps}")
        if handover not in HANDOVERS:
            raise ValueError(f"handover: expected one of {list(HANDOVERS)}, got {handover!r}")
        self.epoch = 0
        self._hz, self._execute_steps, self._handover = control_hz, execute_steps, handover
        self._max_delay = max_delay
        self._latencies = collections.deque([latency_s], maxlen=LATENCIES)
        self._chunk: _Chunk | None = None
        self._last: Due | None = None

    @property
    def delay(self) -> int:
        """Control steps that the next inference is expected to take."""
        return max(0, math.ceil(max(self._latencies) * self._hz - _ROUNDING))

    def set_epoch(self, epoch: int) -> None:
        """Drops everything that was planned for an earlier epoch: a person has moved the robot since."""
        if epoch > self.epoch:
            self.epoch, self._chunk, self._last = epoch, None, None

    def due(self, now: float) -> Due | None:
        """The action to execute at `now`; None before the first chunk of an epoch."""
        chunk, row = self._chunk, self._row(now)
        if chunk is None or row >= len(chunk.actions):
            return self._last and dataclasses.replace(self._last, starved=True)
        time = chunk.start + row / self._hz
        if row >= 0 and (self._last is None or time > self._last.time + _ROUNDING / self._hz):
            self._last = Due(chunk.actions[row], time, self.epoch)
        return self._last

    def request(self, observed: float) -> Request | None:
        """Whether to plan the next chunk from an observation made at `observed`. Ask while no inference is running."""
        chunk, row = self._chunk, self._row(observed)
        if chunk is None or row >= len(chunk.actions):
            return Request(observed, self.epoch, at_rest=True)
        length = len(chunk.actions)
        # At the latest so that the new chunk arrives before this one ends.
        if self._handover == "sync" or row < min(max(self._execute_steps, self.delay), length - self.delay):
            return None
        most = length // 2 if self._max_delay is None else self._max_delay
        if self._handover == "replace" or self.delay > most:
            return Request(observed, self.epoch, at_rest=False)
        return Request(observed, self.epoch, False, _rest(chunk.actions, row, self.delay), self.delay)

    def add(self, request: Request, actions: np.ndarray, now: float) -> bool:
        """Takes over the chunk [H, A] that `request` asked for; False where it is stale, or late beyond its end.

        Raises ValueError where `actions` is no chunk of at least `execute_steps` finite actions.
        """
        check_chunk(actions, self._execute_steps)
        self._latencies.append(now - request.time)
        if request.epoch < self.epoch:
            return False
        if self._handover == "sync":
            actions = actions[: self._execute_steps]
        chunk = _Chunk(np.asarray(actions), now if request.at_rest else request.time)
        outdated = self._chunk is not None and chunk.start < self._chunk.start
        if outdated or (now - chunk.start) * self._hz + EARLY >= len(actions):
            return False
        self._chunk = chunk
        return True

    def _row(self, now: float) -> int:
        """Row of the chunk that is due at `now`; negative before its start."""
        return math.floor((now - self._chunk.start) * self._hz + EARLY) if self._chunk else 0


def check_chunk(actions: np.ndarray, execute_steps: int) -> None:
    """Raises ValueError unless `actions` is finite, [H, A], and holds `execute_steps`."""
    if actions.ndim != 2 or not np.isfinite(actions).all():
        raise ValueError(f"actions: expected a finite chunk [H, A], got {actions.dtype} {list(actions.shape)}")
    if len(actions) < execute_steps:
        raise ValueError(
            f"execute_steps: {execute_steps} is more than the policy's chunk of {len(actions)} actions; "
            f"set it to at most {len(actions)}"
        )


def _rest(actions: np.ndarray, row: int, delay: int) -> np.ndarray:
    """Actions from `row` on, the last one held where fewer than `delay` are left: that is what will be executed."""
    rest = actions[row:]
    return np.concatenate([rest, np.repeat(rest[-1:], max(0, delay - len(rest)), axis=0)])
