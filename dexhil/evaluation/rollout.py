"""One trial: a policy drives a rig from a seeded start until the task is done or time is up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from dexhil.control.executor import ChunkQueue, Request
from dexhil.rig import Rig
from dexhil.schema import ActionChunk, Observation


class Policy(Protocol):
    """What a trial needs of a policy."""

    def infer(self, observation: Observation, *, seed: int) -> ActionChunk:
        """The next H actions. The same observation and seed give the same chunk."""
        ...


class ScoredRig(Rig, Protocol):
    """A rig that can judge itself; the simulated one does."""

    @property
    def horizon_s(self) -> float:
        """Time that the present task is given (s)."""
        ...

    def success(self) -> bool:
        """Whether the task has been achieved since the last reset."""
        ...

    def failure(self) -> str:
        """Category of the failure, empty on success."""
        ...

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        """uint8 [height, width, 3]."""
        ...


@dataclasses.dataclass(frozen=True)
class Filming:
    """How a trial is filmed. fps is met as nearly as whole control steps allow."""

    camera: str = "scene"
    width: int = 320
    height: int = 240
    fps: int = 10
    only_last: bool = False


@dataclasses.dataclass(frozen=True)
class Trial:
    """Outcome of one trial. seconds: rig time used; failure: category, "" on success; frames: uint8 [H, W, 3]."""

    task: str
    seed: int
    success: bool
    seconds: float
    failure: str
    frames: tuple[np.ndarray, ...] = ()


def run_trial(
    rig: ScoredRig,
    policy: Policy,
    task: str,
    seed: int,
    *,
    execute_steps: int = 8,
    max_seconds: float | None = None,
    filming: Filming | None = None,
    latency_steps: int = 0,
    handover: str = "replace",
) -> Trial:
    """Runs `policy` on `task` from the start that `seed` gives: of every chunk `execute_steps` actions, then a new one.

    max_seconds: time limit, by default the task's own. The trial ends at the first success. All that is random hangs on
    `seed`, so that two policies meet the same start. latency_steps: control steps that a chunk comes late after its
    observation, as on a robot, except the first, which the robot awaits at rest. handover: see `chunks`.
    Raises ValueError unless a chunk holds `execute_steps`.
    """
    planner = Planner(policy, rig.control_hz, seed, execute_steps, latency_steps, handover)
    rig.reset(task=task, seed=seed)
    steps = round((rig.horizon_s if max_seconds is None else max_seconds) * rig.control_hz)
    every = _frame_interval(filming, rig.control_hz, steps)
    frames: list[np.ndarray] = []
    step = 0
    while step < steps and not rig.success():
        if filming and step % every == 0 and not filming.only_last:
            frames.append(rig.render(filming.camera, filming.width, filming.height))
        rig.apply(planner.action(step, rig.observe))
        step += 1
    rig.stop()
    if filming:
        frames.append(rig.render(filming.camera, filming.width, filming.height))
    success = rig.success()
    failure = "" if success else rig.failure() or "out of time"
    return Trial(task, seed, success, step / rig.control_hz, failure, tuple(frames))


class Planner:
    """Plans while the robot moves, in simulated time: a chunk comes `latency_steps` after its observation.

    Except the first, and the first after `drop`, which the robot awaits at rest. handover: see `chunks`.
    """

    def __init__(
        self, policy: Policy, control_hz: float, seed: int, execute_steps: int, latency_steps: int, handover: str
    ) -> None:
        if latency_steps < 0:
            raise ValueError(f"latency_steps: expected 0 or more control steps, got {latency_steps}")
        self._policy, self._hz, self._seed, self._latency = policy, control_hz, seed, latency_steps
        self._queue = ChunkQueue(
            control_hz,
            execute_steps=execute_steps,
            handover=handover,
            latency_s=latency_steps / control_hz,
        )
        self._awaited = True
        self._coming: tuple[int, Request, np.ndarray] | None = None  # step of arrival, what was asked for, chunk

    def drop(self) -> None:
        """Forgets what was planned: a person has moved the robot since."""
        self._queue.set_epoch(self._queue.epoch + 1)
        self._awaited, self._coming = True, None

    def action(self, step: int, observe: Callable[[], Observation]) -> np.ndarray:
        """The action [A] rad to execute at control step `step`. observe: called where a chunk is planned."""
        now = step / self._hz
        request = None if self._coming else self._queue.request(now)
        if request:
            actions = self._policy.infer(observe(), seed=plan_seed(self._seed, step), **request.options).actions
            self._coming = step + (0 if self._awaited else self._latency), request, actions
            self._awaited = False
        if self._coming and step >= self._coming[0]:
            self._queue.add(*self._coming[1:], now)
            self._coming = None
        due = self._queue.due(now)
        assert due is not None, "the first chunk comes at once"
        return due.action


def plan_seed(seed: int, step: int) -> int:
    """A seed of its own for each plan of each trial, [0, 2^31)."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0] >> 1)


def _frame_interval(filming: Filming | None, control_hz: float, steps: int) -> int:
    return max(1, round(control_hz / filming.fps)) if filming else max(1, steps)
