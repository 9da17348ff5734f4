"""One trial: a policy drives a rig from a seeded start until the task is done or time is up."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from dexhil.chunks import ChunkQueue, Request, check_chunk
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
    planner = _Planner(policy, rig, seed, execute_steps, latency_steps, handover)
    rig.reset(task=task, seed=seed)
    steps = round((rig.horizon_s if max_seconds is None else max_seconds) * rig.control_hz)
    every = _frame_interval(filming, rig.control_hz, steps)
    frames: list[np.ndarray] = []
    step = 0
    while step < steps and not rig.success():
        if filming and step % every == 0 and not filming.only_last:
            frames.append(rig.render(filming.camera, filming.width, filming.height))
        rig.apply(planner.action(step))
        step += 1
    rig.stop()
    if filming:
        frames.append(rig.render(filming.camera, filming.width, filming.height))
    success = rig.success()
    failure = "" if success else rig.failure() or "out of time"
    return Trial(task, seed, success, step / rig.control_hz, failure, tuple(frames))


class _Planner:
    """Plans while the robot moves, in simulated time: a chunk comes `latency_steps` after its observation."""

    def __init__(
        self, policy: Policy, rig: ScoredRig, seed: int, execute_steps: int, latency_steps: int, handover: str
    ) -> None:
        if latency_steps < 0:
            raise ValueError(f"latency_steps: expected 0 or more control steps, got {latency_steps}")
        self._policy, self._rig, self._seed, self._latency = policy, rig, seed, latency_steps
        self._queue = ChunkQueue(
            rig.control_hz,
            execute_steps=execute_steps,
            handover=handover,
            latency_s=latency_steps / rig.control_hz,
        )
        self._coming: tuple[int, Request, np.ndarray] | None = None  # step of arrival, what was asked for, chunk

    def action(self, step: int) -> np.ndarray:
        """The action [A] to execute at `step`."""
        now = step / self._rig.control_hz
        request = None if self._coming else self._queue.request(now)
        if request:
            seed = plan_seed(self._seed, step)
            actions = self._policy.infer(self._rig.observe(), seed=seed, **request.options).actions
            self._coming = step + (self._latency if step else 0), request, actions
        if self._coming and step >= self._coming[0]:
            self._queue.add(*self._coming[1:], now)
            self._coming = None
        due = self._queue.due(now)
        assert due is not None, "the first chunk comes at step 0"
        return due.action


def plan(policy: Policy, observation: Observation, execute_steps: int, seed: int) -> np.ndarray:
    """[execute_steps, A]"""
    actions = policy.infer(observation, seed=seed).actions
    check_chunk(actions, execute_steps)
    return actions[:execute_steps]


def plan_seed(seed: int, step: int) -> int:
    """A seed of its own for each plan of each trial, [0, 2^31)."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0] >> 1)


def _frame_interval(filming: Filming | None, control_hz: float, steps: int) -> int:
    return max(1, round(control_hz / filming.fps)) if filming else max(1, steps)
