"""Tasks of the simulated rig: the objects on the table, how a reset varies them, and what counts as success.

Frames: what a task places or reports is in the robot's base frame, whose origin stands on the table plane, +x forward.

Collision bits, shared with the robot model: whatever acts on objects (table, pack, arm, hand) has WORLD_BIT in its
contype, and a hand's geoms have HAND_BIT too. Objects only receive (contype 0): conaffinity WORLD_BIT meets everything,
HAND_BIT hands only.
"""

import abc
import dataclasses
from pathlib import Path
from typing import ClassVar

import mujoco
import numpy as np

from dexhil.sim.tasks.nominals import Nominals, Rows

WORLD_BIT = 1
HAND_BIT = 2


@dataclasses.dataclass(frozen=True)
class PlushState:
    """Where the toy is, for the scripted operator only.

    grasp_point: [3] m, the middle of the belly. yaw: rad, direction of the head seen from above. lifted: m above where
    it rested. in_hand: a hand touches it.
    """

    grasp_point: np.ndarray
    yaw: float
    lifted: float
    in_hand: bool


@dataclasses.dataclass(frozen=True)
class TissueState:
    """Where the tissue is, for the scripted operator only.

    grasp_point: [3] m, the middle of what sticks out. tip: [3] m, its upper edge. lip: [3] m, the slot it comes out of.
    normal_yaw: rad, direction of the sheet's normal in the table plane. visible: m that stick out. pulled: m of slide
    since reset. in_hand: a hand touches it.
    """

    grasp_point: np.ndarray
    tip: np.ndarray
    lip: np.ndarray
    normal_yaw: float
    visible: float
    pulled: float
    in_hand: bool


class Task(abc.ABC):
    """One task: call `build` once before compiling, then per episode `randomise`, and per control step the rest.

    name: of the registry. instruction: what the policy is asked for. horizon_s: s after which a trial has failed.
    colours: RGB of the task's objects, which clutter may share.
    """

    name: ClassVar[str]
    instruction: ClassVar[str]
    horizon_s: ClassVar[float]
    colours: ClassVar[tuple[tuple[float, float, float], ...]]

    def __init__(self) -> None:
        self._nominals: Nominals | None = None
        self._geoms = np.zeros(0, int)  # of the object that a hand should touch
        self._touched = self._succeeded = False

    def build(self, spec: mujoco.MjSpec) -> None:
        """Adds what `<name>.xml` describes, its names prefixed, to a scene that already holds table and robot."""
        objects = mujoco.MjSpec.from_file(str(Path(__file__).with_name(f"{self.name}.xml")))
        spec.attach(objects, prefix=f"{self.name}_", frame=spec.worldbody.add_frame())

    def randomise(
        self, model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, difficulty: float
    ) -> None:
        """Draws an initial state, after mj_resetData: writes object qpos and model parameters, forgets the last one.

        Parameters start from their nominal values, so that the outcome depends on `rng` and `difficulty` (0 to 1) only.
        Raises ValueError for a difficulty outside [0, 1].
        """
        check_difficulty(difficulty)
        self._touched = self._succeeded = False
        if self._nominals is None or self._nominals.model is not model:
            self._nominals = Nominals(model, self._bind(model))
        self._nominals.restore()
        self._reset(self._nominals, data, rng, difficulty)

    @abc.abstractmethod
    def _bind(self, model: mujoco.MjModel) -> Rows:
        """Looks up ids; returns the model rows that change during an episode."""

    @abc.abstractmethod
    def _reset(self, nominals: Nominals, data: mujoco.MjData, rng: np.random.Generator, difficulty: float) -> None:
        """Draws the initial state into a model whose parameters are nominal."""

    @abc.abstractmethod
    def before_step(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """Disturbances, once per control step before physics; time_s: s since the episode began."""

    @abc.abstractmethod
    def update(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """Tracks success and failure, once per control step after physics."""

    def success(self) -> bool:
        """True once the goal was reached; stays true."""
        return self._succeeded

    @abc.abstractmethod
    def failure(self) -> str:
        """The furthest stage that was reached and what went wrong there, a category for reports; "" on success."""

    @abc.abstractmethod
    def privileged(self, model: mujoco.MjModel, data: mujoco.MjData) -> PlushState | TissueState:
        """The object's state for the scripted operator; never part of an observation."""

    def _contacts(self, data: mujoco.MjData) -> np.ndarray:
        """Ids of the geoms in contact with the object, repeated once per contact."""
        pairs = data.contact.geom
        others = pairs[:, ::-1][np.isin(pairs, self._geoms)]
        return others[(others >= 0) & ~np.isin(others, self._geoms)]


def check_difficulty(difficulty: float, name: str = "difficulty") -> None:
    """Raises ValueError unless `difficulty` lies in [0, 1]."""
    if not 0.0 <= difficulty <= 1.0:
        raise ValueError(f"{name} {difficulty!r}: expected a number from 0 (none) to 1 (all randomisation)")


def any_hand(model: mujoco.MjModel, geoms: np.ndarray) -> bool:
    """True if one of `geoms` belongs to a hand (by its collision bit)."""
    return bool((model.geom_contype[geoms] & HAND_BIT).any())


def any_fixed(model: mujoco.MjModel, geoms: np.ndarray) -> bool:
    """True if one of `geoms` cannot move: the table, the floor, a pack."""
    return bool((model.body_weldid[model.geom_bodyid[geoms]] == 0).any())


def yaw_quat(yaw: float) -> np.ndarray:
    """Quaternion [4] w-x-y-z of a rotation by `yaw` rad about z."""
    return np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
