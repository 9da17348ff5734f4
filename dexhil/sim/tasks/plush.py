"""Plush toy grasping: a yellow bear lies on the table; lift it more than 10 cm and hold it for a second."""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np

from dexhil.sim.tasks.base import (
    WORLD_BIT,
    PlushState,
    any_fixed,
    any_hand,
    check_difficulty,
    check_fidelity,
    touched_by,
    yaw_quat,
)
from dexhil.sim.tasks.nominals import Nominals, bvh_rows, rows_with_prefix

LIFT_M = 0.10
HOLD_S = 1.0
CENTRE = np.array([0.50, 0.0])
PREFIX = "plush_"


@dataclasses.dataclass(frozen=True)
class Part:
    """A soft ellipsoid. centre: m in the toy's frame (x to the head, z up). radii: m. joint: m, where it hangs on its parent."""

    name: str
    parent: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    joint: tuple[float, float, float] | None = None
    colour: str = "fur"


BELLY_RADII = (0.058, 0.042, 0.034)
PARTS = (
    Part("belly", "", (0.0, 0.0, 0.0), BELLY_RADII),
    Part("patch", "belly", (-0.004, 0.0, 0.008), (0.040, 0.029, 0.0275), colour="patch"),
    Part("head", "belly", (0.082, 0.0, 0.006), (0.038, 0.041, 0.036), joint=(0.050, 0.0, 0.0)),
    Part("muzzle", "head", (0.074, 0.0, 0.036), (0.016, 0.019, 0.014), colour="patch"),
    Part("nose", "head", (0.080, 0.0, 0.049), (0.006, 0.008, 0.005), colour="dark"),
    Part("eye_left", "head", (0.097, 0.016, 0.035), (0.006, 0.006, 0.006), colour="dark"),
    Part("eye_right", "head", (0.097, -0.016, 0.035), (0.006, 0.006, 0.006), colour="dark"),
    Part("ear_left", "head", (0.108, 0.034, 0.006), (0.017, 0.017, 0.011), colour="ear"),
    Part("ear_right", "head", (0.108, -0.034, 0.006), (0.017, 0.017, 0.011), colour="ear"),
    Part("arm_left", "belly", (0.050, 0.056, -0.012), (0.015, 0.031, 0.016), joint=(0.044, 0.030, -0.008)),
    Part("arm_right", "belly", (0.050, -0.056, -0.012), (0.015, 0.031, 0.016), joint=(0.044, -0.030, -0.008)),
    Part("leg_left", "belly", (-0.072, 0.034, -0.012), (0.036, 0.020, 0.020), joint=(-0.044, 0.026, -0.006)),
    Part("leg_right", "belly", (-0.072, -0.034, -0.012), (0.036, 0.020, 0.020), joint=(-0.044, -0.026, -0.006)),
    Part("foot_left", "leg_left", (-0.104, 0.036, -0.004), (0.012, 0.020, 0.024), colour="ear"),
    Part("foot_right", "leg_right", (-0.104, -0.036, -0.004), (0.012, 0.020, 0.024), colour="ear"),
)
COLOURS = {
    "fur": (0.98, 0.80, 0.08, 1.0),
    "patch": (1.0, 0.93, 0.55, 1.0),
    "ear": (0.80, 0.45, 0.06, 1.0),
    "dark": (0.05, 0.04, 0.04, 1.0),
}
MASS = {"belly": 0.070, "head": 0.040, "arm_left": 0.008, "arm_right": 0.008, "leg_left": 0.012, "leg_right": 0.012}
JOINT_STIFFNESS, JOINT_DAMPING = {"head": 0.06}, {"head": 3e-3}  # N m/rad, N m s/rad; the rest:
LIMB_STIFFNESS, LIMB_DAMPING = 0.012, 6e-4
FRICTION = 0.9
SOFT_SOLREF = (0.012, 1.0)
SOFT_SOLIMP = (0.6, 0.95, 0.012, 0.5, 2.0)


@dataclasses.dataclass(frozen=True)
class PlushDraw:
    """What one reset draws. position: [2] m. yaw: rad. shove: [2] m along the table at shove_time s. The rest are factors."""

    position: np.ndarray
    yaw: float
    size: float
    friction: float
    mass: float
    tint: np.ndarray
    shove: np.ndarray
    shove_time: float


def draw(rng: np.random.Generator, difficulty: float) -> PlushDraw:
    """Draws a reset; every range grows with `difficulty`, and the same numbers are used whatever it is."""
    unit = rng.uniform(-1.0, 1.0, 12)
    shove_angle, shove_m = np.pi * unit[8], 0.05 * difficulty * (unit[9] + 1) / 2
    return PlushDraw(
        position=CENTRE + difficulty * np.array([0.12, 0.20]) * unit[:2],
        yaw=float(np.pi * difficulty * unit[2]),
        size=1.0 + 0.2 * difficulty * unit[3],
        friction=FRICTION + difficulty * np.interp(unit[4], [-1, 0, 1], [-0.4, 0, 0.3]),
        mass=float(2.0 ** (difficulty * unit[5])),
        tint=1.0 + difficulty * np.array([0.0, 0.12, 0.08]) * unit[[6, 6, 7]],
        shove=shove_m * np.array([np.cos(shove_angle), np.sin(shove_angle)]),
        shove_time=0.9 + 0.6 * unit[10],
    )


class PlushTask:
    """See the module; implements `Task`."""

    name = "plush"
    instruction = "Grab that yellow plushie"
    horizon_s = 12.0

    def __init__(self) -> None:
        self._nominals: Nominals | None = None
        self._flex = False
        self._draw = draw(np.random.default_rng(0), 0.0)
        self._forget()

    def _forget(self) -> None:
        self._held_since: float | None = None
        self._touched = self._succeeded = self._shoved = False
        self._highest = self._lifted = 0.0

    def build(self, spec: mujoco.MjSpec, fidelity: str) -> None:
        """See `Task`. Raises ValueError for an unknown fidelity."""
        check_fidelity(fidelity)
        self._flex = fidelity == "flex"
        _build_ragdoll(spec)

    def randomise(self, model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, difficulty: float) -> None:
        """See `Task`. Raises ValueError for a difficulty outside [0, 1]."""
        check_difficulty(difficulty)
        self._draw = draw(rng, difficulty)
        self._forget()
        if self._nominals is None or self._nominals.model is not model:
            self._geoms = rows_with_prefix(model, "geom", PREFIX)
            self._nominals = _nominals(model)
        _apply(self._nominals, self._draw)
        self._place(model, data)

    def _place(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        root = model.joint(PREFIX + "root")
        self._rest = BELLY_RADII[2] * self._draw.size
        start, dof = root.qposadr[0], root.dofadr[0]
        data.qpos[start : start + 7] = [*self._draw.position, self._rest, *yaw_quat(self._draw.yaw)]
        data.qvel[dof : dof + 6] = 0.0

    def before_step(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """Pushes the toy once, before it was touched: it slides about `shove` and stops by friction."""
        if self._shoved or self._touched or time_s < self._draw.shove_time:
            return
        self._shoved = True
        distance = np.linalg.norm(self._draw.shove)
        speed = np.sqrt(2 * 9.81 * self._draw.friction * distance)
        dof = model.joint(PREFIX + "root").dofadr[0]
        data.qvel[dof : dof + 2] += speed * self._draw.shove / max(distance, 1e-9)

    def update(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """See `Task`."""
        others = touched_by(model, data, self._geoms, np.zeros(0))
        in_hand = any_hand(model, others)
        self._touched |= in_hand
        self._lifted = float(data.body(PREFIX + "belly").xpos[2] - self._rest)
        self._highest = max(self._highest, self._lifted)
        up = in_hand and self._lifted > LIFT_M and not any_fixed(model, others)
        self._held_since = (time_s if self._held_since is None else self._held_since) if up else None
        self._succeeded |= up and time_s - self._held_since >= HOLD_S - 1e-6

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
        belly = data.body(PREFIX + "belly")
        head = belly.xmat.reshape(3, 3)[:, 0]
        length, width, height = 2 * self._draw.size * np.array(BELLY_RADII)
        others = touched_by(model, data, self._geoms, np.zeros(0))
        return PlushState(
            grasp_point=belly.xpos.copy(),
            yaw=float(np.arctan2(head[1], head[0])),
            size=self._draw.size,
            length=float(length),
            width=float(width),
            height=float(height),
            lifted=float(belly.xpos[2] - self._rest),
            in_hand=any_hand(model, others),
        )


def _build_ragdoll(spec: mujoco.MjSpec) -> None:
    bodies: dict[str, mujoco.MjsBody] = {}
    origins = {"": np.zeros(3)}
    for part in PARTS:
        moves = part.name in MASS
        if moves:
            origin = np.array(part.joint or (0.0, 0.0, 0.0))
            parent = bodies.get(part.parent, spec.worldbody)
            bodies[part.name] = parent.add_body(name=PREFIX + part.name, pos=origin - origins[part.parent])
            origins[part.name] = origin
            _add_joint(bodies[part.name], part)
        owner = part.name if moves else part.parent
        _add_ellipsoid(bodies[owner], part, np.array(part.centre) - origins[owner])


def _add_joint(body: mujoco.MjsBody, part: Part) -> None:
    if part.joint is None:
        body.add_freejoint(name=PREFIX + "root")
        return
    joint = body.add_joint(name=PREFIX + part.name, type=mujoco.mjtJoint.mjJNT_BALL, armature=1e-6)
    joint.stiffness[0] = JOINT_STIFFNESS.get(part.name, LIMB_STIFFNESS)
    joint.damping[0] = JOINT_DAMPING.get(part.name, LIMB_DAMPING)


def _add_ellipsoid(body: mujoco.MjsBody, part: Part, centre: np.ndarray) -> None:
    geom = body.add_geom(name=PREFIX + part.name, type=mujoco.mjtGeom.mjGEOM_ELLIPSOID, size=part.radii, pos=centre)
    geom.rgba = COLOURS[part.colour]
    geom.mass = MASS.get(part.name, 0.0)
    geom.contype, geom.conaffinity = 0, WORLD_BIT if part.name in MASS else 0
    geom.priority, geom.condim, geom.friction = 1, 4, (FRICTION, 0.01, 0.0005)
    geom.solref[:2], geom.solimp = SOFT_SOLREF, SOFT_SOLIMP


def _nominals(model: mujoco.MjModel) -> Nominals:
    geoms, bodies = rows_with_prefix(model, "geom", PREFIX), rows_with_prefix(model, "body", PREFIX)
    children = bodies[1:]
    rows = {field: geoms for field in ("geom_size", "geom_pos", "geom_rbound", "geom_aabb", "geom_friction", "geom_rgba")}
    rows |= {field: bodies for field in ("body_mass", "body_inertia", "body_ipos")}
    return Nominals(model, rows | {"body_pos": children, "bvh_aabb": bvh_rows(model, bodies)})


def _apply(nominals: Nominals, values: PlushDraw) -> None:
    """Writes the drawn size, mass, friction and colour into the model."""
    nominals.restore()
    for field in ("geom_size", "geom_pos", "geom_rbound", "geom_aabb", "body_ipos", "body_pos", "bvh_aabb"):
        nominals.scale(field, values.size)
    nominals.scale("body_mass", values.mass)
    nominals.scale("body_inertia", values.mass * values.size**2)
    nominals.scale("geom_friction", np.array([values.friction / FRICTION, 1.0, 1.0]))
    nominals.scale("geom_rgba", np.array([*values.tint, 1.0]))
    nominals.derive()
