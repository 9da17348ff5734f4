"""A rig and policies without physics: the task is to bring joint 0 to 1 rad and back below 0.5 within the time."""

from __future__ import annotations

import os

import numpy as np

from dexhil.robots.spec import RobotSpec
from dexhil.schema import ActionChunk, Observation

SPEC = RobotSpec(
    name="stick",
    joint_names=tuple(f"joint{i}" for i in range(8)),
    lower=np.full(8, -3.0, np.float32),
    upper=np.full(8, 3.0, np.float32),
    max_velocity=np.full(8, 20.0, np.float32),
    home=np.zeros(8, np.float32),
    full_hand_joint_names=("finger",),
    coupling=np.ones((1, 1), np.float32),
)


class FakeRig:
    """The start of joint 0 comes from the seed; an odd seed makes the goal unreachable. Logs every call."""

    spec = SPEC
    control_hz = 20.0
    horizon_s = 2.0

    def __init__(self) -> None:
        self.calls: list[str] = []

    @property
    def command(self) -> np.ndarray:
        return self.joints

    resting_point = command

    def reset(self, *, task: str, seed: int) -> Observation:
        self.calls = [f"reset {task} {seed}"]
        self.task, self.seed, self.steps, self.done = task, seed, 0, False
        self.joints = np.zeros(8, np.float32)
        self.joints[0] = np.random.default_rng(seed).uniform(-0.5, 0.0)
        return self._observation()

    def observe(self) -> Observation:
        self.calls.append("observe")
        return self._observation()

    def apply(self, action: np.ndarray) -> np.ndarray:
        self.calls.append("apply")
        self.steps += 1
        self.joints = np.clip(action, self.joints - 0.1, self.joints + 0.1).astype(np.float32)
        self.done |= self.seed % 2 == 0 and bool(self.joints[0] >= 0.99)
        return self.joints

    def stop(self) -> None:
        self.calls.append("stop")

    def success(self) -> bool:
        return self.done

    def failure(self) -> str:
        return "" if self.done else "never reached"

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        """A ball on a line, at the height of joint 0."""
        self.calls.append(f"render {camera}")
        image = np.full((height, width, 3), (225, 230, 236), np.uint8)
        rows, columns = np.mgrid[:height, :width]
        x, y = width * (0.15 + 0.017 * self.steps), height * (0.8 - 0.55 * float(self.joints[0]))
        image[int(height * 0.25)] = (120, 130, 140)
        image[(rows - y) ** 2 + (columns - x) ** 2 < (height / 14) ** 2] = (217, 120, 45)
        return image

    def _observation(self) -> Observation:
        pose = np.array([0, 0, 0, 1, 0, 0, 0], np.float32)
        image = {"scene": np.zeros((8, 8, 3), np.uint8)}
        return Observation(image, self.joints[:7], self.joints[7:], pose, self.steps / 20.0, f"do {self.task}")


class UpPolicy:
    """Asks for joint 0 at `goal`; remembers what it was asked."""

    def __init__(self, goal: float = 1.0, chunk: int = 16) -> None:
        self.goal, self.chunk = goal, chunk
        self.asked: list[tuple[float, int]] = []

    def infer(self, observation: Observation, *, seed: int) -> ActionChunk:
        self.asked.append((observation.timestamp, seed))
        actions = np.zeros((self.chunk, 8), np.float32)
        actions[:, 0] = self.goal
        return ActionChunk(actions, observation.timestamp)


class DyingPolicy(UpPolicy):
    """Takes its process down with it, as a killed worker would."""

    def infer(self, observation: Observation, *, seed: int) -> ActionChunk:
        os._exit(1)
