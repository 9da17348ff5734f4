"""Tasks of the simulated rig: the objects on the table, how a reset varies them, and what counts as success.

Frames: what a task places or reports is in the robot's base frame, whose origin stands on the table plane, +x forward.

Collision bits, shared with the robot model: whatever acts on objects (table, pack, arm, hand) has WORLD_BIT in its
contype, and a hand's geoms have HAND_BIT too. Objects only receive (contype 0): conaffinity WORLD_BIT meets everything,
HAND_BIT hands only.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import mujoco
import numpy as np

WORLD_BIT = 1
HAND_BIT = 2


@dataclasses.dataclass(frozen=True)
class PlushState:
    """Where the toy is, for the scripted operator only.

    grasp_point: [3] m, the middle of the belly. yaw: rad, direction of the head seen from above. size: 1 is the nominal
    toy. length, width, height: m of the belly. lifted: m above where it rested. in_hand: a hand touches it.
    """

    grasp_point: np.ndarray
    yaw: float
    size: float
    length: float
    width: float
    height: float
    lifted: float
    in_hand: bool


@dataclasses.dataclass(frozen=True)
class TissueState:
    """Where the tissue is, for the scripted operator only.

    grasp_point: [3] m, the middle of what sticks out. tip: [3] m, its upper edge. lip: [3] m, the slot it comes out of.
    normal_yaw: rad, direction of the sheet's normal in the table plane. curl: rad, tip against upright. visible: m that
    stick out. pulled: m of slide since reset. width, length: m of the whole sheet. in_hand: a hand touches it.
    """

    grasp_point: np.ndarray
    tip: np.ndarray
    lip: np.ndarray
    normal_yaw: float
    curl: float
    width: float
    visible: float
    pulled: float
    length: float
    in_hand: bool


class Task(Protocol):
    """One task: call `build` once before compiling, then per episode `randomise`, and per control step the rest.

    name: registry name. instruction: what the policy is told. horizon_s: s after which a trial has failed.
    colours: RGB of the task's objects, which clutter may share.
    """

    name: str
    instruction: str
    horizon_s: float
    colours: tuple[tuple[float, float, float], ...]

    def build(self, spec: mujoco.MjSpec) -> None:
        """Adds bodies, assets and solver options to a scene that already holds table and robot."""
        ...

    def randomise(
        self, model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, difficulty: float
    ) -> None:
        """Draws an initial state, after mj_resetData: writes object qpos and model parameters, forgets the last one.

        Parameters start from their nominal values, so that the outcome depends on `rng` and `difficulty` (0 to 1) only.
        """
        ...

    def before_step(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """Disturbances, once per control step before physics; time_s: s since the episode began."""
        ...

    def update(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """Tracks success and failure, once per control step after physics."""
        ...

    def success(self) -> bool:
        """True once the goal was reached; stays true."""
        ...

    def failure(self) -> str:
        """What went wrong so far, a category for reports; "" on success."""
        ...

    def privileged(self, model: mujoco.MjModel, data: mujoco.MjData) -> PlushState | TissueState:
        """The object's state for the scripted operator; never part of an observation."""
        ...


def check_difficulty(difficulty: float, name: str = "difficulty") -> None:
    """Raises ValueError unless `difficulty` lies in [0, 1]."""
    if not 0.0 <= difficulty <= 1.0:
        raise ValueError(f"{name} {difficulty!r}: expected a number from 0 (none) to 1 (all randomisation)")


def touched_by(model: mujoco.MjModel, data: mujoco.MjData, geoms: np.ndarray) -> np.ndarray:
    """Ids of the geoms in contact with the object made of `geoms`, repeated once per contact."""
    pairs = data.contact.geom
    mine = np.isin(pairs, geoms)
    others = pairs[:, ::-1][mine]
    return others[(others >= 0) & ~np.isin(others, geoms)]


def any_hand(model: mujoco.MjModel, geoms: np.ndarray) -> bool:
    """True if one of `geoms` belongs to a hand (by its collision bit)."""
    return bool((model.geom_contype[geoms] & HAND_BIT).any())


def any_fixed(model: mujoco.MjModel, geoms: np.ndarray) -> bool:
    """True if one of `geoms` cannot move: the table, the floor, a pack."""
    return bool((model.body_weldid[model.geom_bodyid[geoms]] == 0).any())


def yaw_quat(yaw: float) -> np.ndarray:
    """Quaternion [4] w-x-y-z of a turn by `yaw` rad about z."""
    return np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
