"""One trial: a policy drives a rig from a seeded start until the task is done or time is up."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from dexhil.control.executor import DEFAULT, Due, Executor, ExecutorConfig, Request, plan_seed
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
    def command(self) -> np.ndarray:
        """[A] rad, the last executed command; after a reset, where the robot stands."""
        ...

    @property
    def resting_point(self) -> np.ndarray:
        """[A] rad, where `command` would come to rest by the fastest stop."""
        ...

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
    """How a trial is filmed; `fps` is met as nearly as whole control steps allow."""

    camera: str = "scene"
    width: int = 320
    height: int = 240
    fps: int = 10
    only_last: bool = False


@dataclasses.dataclass(frozen=True)
class Trial:
    """Outcome of one trial.

    Attributes:
        seconds: rig time used.
        failure: category, "" on success.
        frames: uint8 [H, W, 3].
    """

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
    executor: ExecutorConfig = DEFAULT,
    max_seconds: float | None = None,
    filming: Filming | None = None,
    latency_steps: int = 0,
) -> Trial:
    """Runs `policy` on `task` from the start that `seed` gives until its first success or the time limit.

    Args:
        rig: is reset first.
        policy: plans chunks.
        task: one of the rig's.
        seed: all that is random hangs on it, so that two policies meet the same start.
        executor: how chunks follow each other.
        max_seconds: time limit, by default the task's own.
        filming: None for no frames.
        latency_steps: control steps that a chunk comes late after its observation, as on a robot.

    Raises:
        ValueError: a chunk does not hold `execute_steps`.
    """
    planner = Planner(policy, rig.control_hz, seed, executor, latency_steps)
    rig.reset(task=task, seed=seed)
    planner.rest(rig.resting_point)
    steps = round((rig.horizon_s if max_seconds is None else max_seconds) * rig.control_hz)
    every = _frame_interval(filming, rig.control_hz, steps)
    frames: list[np.ndarray] = []
    step = 0
    while step < steps and not rig.success():
        if filming and step % every == 0 and not filming.only_last:
            frames.append(rig.render(filming.camera, filming.width, filming.height))
        due = planner.due(step, rig.observe)
        rig.apply(rig.resting_point if due is None else due.action)
        step += 1
    rig.stop()
    if filming:
        frames.append(rig.render(filming.camera, filming.width, filming.height))
    success = rig.success()
    failure = "" if success else rig.failure() or "out of time"
    return Trial(task, seed, success, step / rig.control_hz, failure, tuple(frames))


class Planner:
    """Plans while the robot moves, in simulated time: a chunk comes `latency_steps` after its observation."""

    def __init__(
        self, policy: Policy, control_hz: float, seed: int, config: ExecutorConfig, latency_steps: int
    ) -> None:
        if latency_steps < 0:
            raise ValueError(f"latency_steps: expected 0 or more control steps, got {latency_steps}")
        self._policy, self._hz, self._seed, self._latency = policy, control_hz, seed, latency_steps
        self._executor = Executor(control_hz, config, latency_s=latency_steps / control_hz)
        self._coming: list[tuple[int, Request, np.ndarray]] = []  # step of arrival, what was asked for, chunk

    def rest(self, command: np.ndarray) -> None:
        """See `Executor.rest`: a person had control, or nobody, and the robot is at `command` [A] rad."""
        self._executor.rest(command)

    def watch(self) -> None:
        """See `Executor.watch`: until the next `rest` a person commands."""
        self._executor.watch()

    def due(self, step: int, observe: Callable[[], Observation]) -> Due | None:
        """What to execute at control step `step`, None while the robot waits; `observe` is called to plan a chunk."""
        now, executor = step / self._hz, self._executor
        if request := executor.request(now):
            chunk = self._policy.infer(observe(), seed=plan_seed(self._seed, step), **request.options)
            self._coming.append((step + self._latency, request, chunk.actions))
        while self._coming and self._coming[0][0] <= step:
            executor.add(*self._coming.pop(0)[1:], now)
        return executor.due(now)


def _frame_interval(filming: Filming | None, control_hz: float, steps: int) -> int:
    return max(1, round(control_hz / filming.fps)) if filming else max(1, steps)
