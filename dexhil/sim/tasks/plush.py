"""Plush toy grasping: a yellow bear lies on the table; lift it more than 10 cm and hold it for a second."""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np

from dexhil.sim.tasks.base import PlushState, any_fixed, any_hand, check_difficulty, touched_by
from dexhil.sim.tasks.nominals import Nominals
from dexhil.sim.tasks.plush_toys import BELLY_RADII, COLOURS, FRICTION, REST_Z, Ragdoll

LIFT_M = 0.10
HOLD_S = 1.0
CENTRE = np.array([0.53, 0.0])


@dataclasses.dataclass(frozen=True)
class PlushDraw:
    """What one reset draws.

    position: [2] m. yaw: rad. size, mass, tint: factors. friction: coefficient. shove: [2] m along the table, at
    shove_time s; a toy that grips tips over and stops sooner.
    """

    position: np.ndarray
    yaw: float
    size: float
    friction: float
    mass: float
    tint: np.ndarray
    shove: np.ndarray
    shove_time: float


def draw(rng: np.random.Generator, difficulty: float) -> PlushDraw:
    """Draws a reset; every range grows with `difficulty`, and the same numbers are used whatever it is.

    The toy lies across the robot's view, where the hand grasps it straight. Its turn grows with the difficulty squared:
    near a toy that points at the robot two grasps, half a turn apart, are equally good, which is hard to imitate.
    """
    unit = rng.uniform(-1.0, 1.0, 12)
    shove_angle, shove_m = np.pi * unit[8], 0.05 * difficulty * (unit[9] + 1) / 2
    return PlushDraw(
        position=CENTRE + difficulty * np.array([0.18, 0.32]) * unit[:2],
        yaw=float(np.pi / 2 + min(3.6 * difficulty**2, np.pi) * unit[2]),
        size=1.0 + 0.20 * difficulty * unit[3],
        friction=FRICTION + difficulty * np.interp(unit[4], [-1, 0, 1], [-0.4, 0, 0.3]),
        mass=float(2.0 ** (difficulty * unit[5])),
        tint=1.0 + difficulty * (0.3 * (unit[6] - 1.0) + np.array([0.0, 0.15, 0.5]) * unit[7]),
        shove=shove_m * np.array([np.cos(shove_angle), np.sin(shove_angle)]),
        shove_time=0.9 + 0.6 * unit[10],
    )


class PlushTask:
    """See the module; implements `Task`."""

    name = "plush"
    instruction = "Grab that yellow plushie"
    horizon_s = 12.0
    colours = (COLOURS["fur"][:3],)

    def __init__(self) -> None:
        self._nominals: Nominals | None = None
        self._toy = Ragdoll()
        self._draw = draw(np.random.default_rng(0), 0.0)
        self._size, self._rest = 1.0, REST_Z
        self._forget()

    def _forget(self) -> None:
        self._held_since: float | None = None
        self._touched = self._succeeded = self._shoved = False
        self._highest = self._lifted = 0.0

    def build(self, spec: mujoco.MjSpec) -> None:
        """See `Task`."""
        self._toy.build(spec)

    def randomise(
        self, model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, difficulty: float
    ) -> None:
        """See `Task`. Raises ValueError for a difficulty outside [0, 1]."""
        check_difficulty(difficulty)
        self._draw = values = draw(rng, difficulty)
        self._forget()
        if self._nominals is None or self._nominals.model is not model:
            self._nominals = Nominals(model, self._toy.bind(model))
        self._nominals.restore()
        self._size = values.size
        self._toy.reset(self._nominals, size=values.size, mass=values.mass, friction=values.friction, tint=values.tint)
        self._rest = REST_Z * self._size
        self._toy.place(data, np.array([*values.position, self._rest]), values.yaw)

    def before_step(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """Pushes the toy once, before it was touched, so fast that by friction alone it would slide `shove`."""
        if self._shoved or self._touched or time_s < self._draw.shove_time:
            return
        self._shoved = True
        distance = float(np.linalg.norm(self._draw.shove))
        speed = np.sqrt(2 * 9.81 * self._draw.friction * distance)
        self._toy.push(data, speed * self._draw.shove / max(distance, 1e-9))

    def update(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """See `Task`."""
        others = self._others(model, data)
        in_hand = any_hand(model, others)
        self._touched |= in_hand
        self._lifted = float(self._toy.pose(data)[0][2] - self._rest)
        self._highest = max(self._highest, self._lifted)
        up = in_hand and self._lifted > LIFT_M and not any_fixed(model, others)
        since = time_s if self._held_since is None else self._held_since
        self._held_since = since if up else None
        self._succeeded |= up and time_s - since >= HOLD_S - 1e-6

    def success(self) -> bool:
        """See `Task`."""
        return self._succeeded

    def failure(self) -> str:
        """See `Task`; the furthest stage that was reached and what went wrong there."""
        if self._succeeded:
            return ""
        if self._lifted < -0.05:
            return "knocked_off_table"
        if not self._touched:
            return "never_touched"
        if self._highest < 0.03:
            return "touched_not_grasped"
        if self._lifted < 0.5 * self._highest:
            return "slipped"
        return "not_high_enough" if self._held_since is None else "not_held_long_enough"

    def privileged(self, model: mujoco.MjModel, data: mujoco.MjData) -> PlushState:
        """See `Task`."""
        position, yaw = self._toy.pose(data)
        length, width, height = (2 * self._size * radius for radius in BELLY_RADII)
        return PlushState(
            grasp_point=position,
            yaw=yaw,
            size=self._size,
            length=length,
            width=width,
            height=height,
            lifted=float(position[2] - self._rest),
            in_hand=any_hand(model, self._others(model, data)),
        )

    def _others(self, model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
        return touched_by(model, data, self._toy.geoms)
