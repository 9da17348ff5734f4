"""Plush toy grasping: a yellow bear lies on the table; lift it more than 10 cm and hold it for a second."""

import dataclasses

import mujoco
import numpy as np

from dexhil.sim.tasks.base import PlushState, Task, any_fixed, any_hand, yaw_quat
from dexhil.sim.tasks.nominals import Nominals, Rows, bvh_rows, rows_with_prefix

LIFT_M = 0.10
HOLD_S = 1.0
CENTRE = np.array([0.53, 0.0])
FRICTION, REST_Z, FUR = 1.4, 0.034, (0.98, 0.80, 0.08)  # of the nominal toy; REST_Z: m of the belly above the table


@dataclasses.dataclass(frozen=True)
class PlushDraw:
    """What a reset draws: position [2] m, yaw rad, push [2] m on the table and its time s; size, mass, tint factors."""

    position: np.ndarray
    yaw: float
    size: float
    friction: float
    mass: float
    tint: np.ndarray
    push: np.ndarray
    push_time: float


def draw(rng: np.random.Generator, difficulty: float) -> PlushDraw:
    """Draws a reset; every range grows with `difficulty`, and the same numbers are used whatever it is.

    The toy's yaw grows with the difficulty squared: one that points at the robot has two grasps, equally good.
    """
    unit = rng.uniform(-1.0, 1.0, 12)
    push_angle, push_m = np.pi * unit[8], 0.05 * difficulty * (unit[9] + 1) / 2
    return PlushDraw(
        position=CENTRE + difficulty * np.array([0.18, 0.32]) * unit[:2],
        yaw=float(np.pi / 2 + min(3.6 * difficulty**2, np.pi) * unit[2]),
        size=1.0 + 0.20 * difficulty * unit[3],
        friction=FRICTION + difficulty * np.interp(unit[4], [-1, 0, 1], [-0.4, 0, 0.3]),
        mass=float(2.0 ** (difficulty * unit[5])),
        tint=1.0 + difficulty * (0.3 * (unit[6] - 1.0) + np.array([0.0, 0.15, 0.5]) * unit[7]),
        push=push_m * np.array([np.cos(push_angle), np.sin(push_angle)]),
        push_time=0.9 + 0.6 * unit[10],
    )


class PlushTask(Task):
    """See the module; the toy is `plush.xml`."""

    name = "plush"
    instruction = "Grab that yellow plushie"
    horizon_s = 12.0
    colours = (FUR,)

    def _bind(self, model: mujoco.MjModel) -> Rows:
        self._geoms, bodies = rows_with_prefix(model, "geom", "plush_"), rows_with_prefix(model, "body", "plush_")
        root = model.joint("plush_root")
        self._belly, self._qpos, self._dof = bodies[0], root.qposadr[0], root.dofadr[0]
        lengths = ("geom_size", "geom_pos", "geom_rbound", "geom_aabb")
        rows = dict.fromkeys((*lengths, "geom_friction", "geom_rgba"), self._geoms)
        rows |= dict.fromkeys(("body_mass", "body_inertia", "body_ipos"), bodies)
        return rows | {"body_pos": bodies[1:], "bvh_aabb": bvh_rows(model, bodies)}

    def _reset(self, nominals: Nominals, data: mujoco.MjData, rng: np.random.Generator, difficulty: float) -> None:
        self._held_since: float | None = None
        self._pushed = False
        self._highest = self._lifted = 0.0
        self._draw = values = draw(rng, difficulty)
        for field in ("geom_size", "geom_pos", "geom_rbound", "geom_aabb", "body_ipos", "body_pos", "bvh_aabb"):
            nominals.scale(field, values.size)
        nominals.scale("body_mass", values.mass)
        nominals.scale("body_inertia", values.mass * values.size**2)
        nominals.scale("geom_friction", np.array([values.friction / FRICTION, 1.0, 1.0]))
        nominals.scale("geom_rgba", np.array([*values.tint, 1.0]))
        nominals.derive()
        self._rest = REST_Z * values.size
        data.qpos[self._qpos : self._qpos + 7] = [*values.position, self._rest, *yaw_quat(values.yaw)]
        data.qvel[self._dof : self._dof + 6] = 0.0

    def before_step(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """Pushes the toy once, before it was touched, so fast that by friction alone it would slide `push`."""
        if self._pushed or self._touched or time_s < self._draw.push_time:
            return
        self._pushed = True
        distance = float(np.linalg.norm(self._draw.push))
        speed = np.sqrt(2 * 9.81 * self._draw.friction * distance)
        data.qvel[self._dof : self._dof + 2] += speed * self._draw.push / max(distance, 1e-9)

    def update(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """See `Task`."""
        others = self._contacts(data)
        in_hand = any_hand(model, others)
        self._touched |= in_hand
        self._lifted = float(data.xpos[self._belly][2] - self._rest)
        self._highest = max(self._highest, self._lifted)
        up = in_hand and self._lifted > LIFT_M and not any_fixed(model, others)
        since = time_s if self._held_since is None else self._held_since
        self._held_since = since if up else None
        self._succeeded |= up and time_s - since >= HOLD_S - 1e-6

    def failure(self) -> str:
        """See `Task`."""
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
        position, head = data.xpos[self._belly].copy(), data.xmat[self._belly].reshape(3, 3)[:, 0]
        return PlushState(
            grasp_point=position,
            yaw=float(np.arctan2(head[1], head[0])),
            lifted=float(position[2] - self._rest),
            in_hand=any_hand(model, self._contacts(data)),
        )
