"""One trial: a policy drives a rig from a seeded start until the task is done or time is up."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

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
) -> Trial:
    """Runs `policy` on `task` from the start that `seed` gives: of every chunk `execute_steps` actions, then a new one.

    max_seconds: time limit, by default the task's own. The trial ends at the first success. All that is random hangs on
    `seed`, so that two policies meet the same start. Raises ValueError unless a chunk holds `execute_steps`.
    """
    if execute_steps < 1:
        raise ValueError(f"execute_steps: expected at least 1, got {execute_steps}")
    rig.reset(task=task, seed=seed)
    steps = round((rig.horizon_s if max_seconds is None else max_seconds) * rig.control_hz)
    every = _frame_interval(filming, rig.control_hz, steps)
    frames: list[np.ndarray] = []
    actions = np.zeros((execute_steps, rig.spec.action_dim), np.float32)
    step = 0
    while step < steps and not rig.success():
        if filming and step % every == 0 and not filming.only_last:
            frames.append(rig.render(filming.camera, filming.width, filming.height))
        if step % execute_steps == 0:
            actions = plan(policy, rig.observe(), execute_steps, plan_seed(seed, step))
        rig.apply(actions[step % execute_steps])
        step += 1
    rig.stop()
    if filming:
        frames.append(rig.render(filming.camera, filming.width, filming.height))
    success = rig.success()
    failure = "" if success else rig.failure() or "out of time"
    return Trial(task, seed, success, step / rig.control_hz, failure, tuple(frames))


def plan(policy: Policy, observation: Observation, execute_steps: int, seed: int) -> np.ndarray:
    """[execute_steps, A]"""
    actions = policy.infer(observation, seed=seed).actions
    if len(actions) < execute_steps:
        raise ValueError(
            f"execute_steps: {execute_steps} is more than the policy's chunk of {len(actions)} actions; "
            f"set it to at most {len(actions)}"
        )
    return actions[:execute_steps]


def plan_seed(seed: int, step: int) -> int:
    """A seed of its own for each plan of each trial, [0, 2^31)."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0] >> 1)


def _frame_interval(filming: Filming | None, control_hz: float, steps: int) -> int:
    return max(1, round(control_hz / filming.fps)) if filming else max(1, steps)
