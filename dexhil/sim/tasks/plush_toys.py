"""The plush bear: a ragdoll of soft-contact ellipsoids.

Toy frame: x to the head, y to the bear's left, z up from its back, origin in the middle of the belly.
"""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np

from dexhil.sim.tasks.base import WORLD_BIT, yaw_quat
from dexhil.sim.tasks.nominals import Nominals, Rows, bvh_rows, rows_with_prefix

PREFIX = "plush_"


@dataclasses.dataclass(frozen=True)
class Part:
    """A soft ellipsoid, in the toy's frame. centre, radii: m. joint: m, where it hangs on its parent if it can move."""

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
FRICTION = 1.4
REST_Z = BELLY_RADII[2]  # height of the origin above the table, m
SOFT_SOLREF = (0.012, 1.0)
SOFT_SOLIMP = (0.6, 0.95, 0.012, 0.5, 2.0)


class Ragdoll:
    """Ellipsoids on ball joints; they touch the world, not each other.

    `bind` comes once per compiled model, `reset` and `place` once per episode.
    """

    def __init__(self) -> None:
        self.geoms = np.zeros(0, int)

    def build(self, spec: mujoco.MjSpec) -> None:
        """Adds the toy to the scene, at the origin."""
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

    def bind(self, model: mujoco.MjModel) -> Rows:
        """Looks up ids; returns the model rows that `reset` changes."""
        self.geoms, bodies = rows_with_prefix(model, "geom", PREFIX), rows_with_prefix(model, "body", PREFIX)
        root = model.joint(PREFIX + "root")
        self._belly, self._qpos, self._dof = bodies[0], root.qposadr[0], root.dofadr[0]
        lengths = ("geom_size", "geom_pos", "geom_rbound", "geom_aabb")
        rows = dict.fromkeys((*lengths, "geom_friction", "geom_rgba"), self.geoms)
        rows |= dict.fromkeys(("body_mass", "body_inertia", "body_ipos"), bodies)
        return rows | {"body_pos": bodies[1:], "bvh_aabb": bvh_rows(model, bodies)}

    def reset(self, nominals: Nominals, *, size: float, mass: float, friction: float, tint: np.ndarray) -> None:
        """Writes factors of size and mass, the friction coefficient, colour factors [3]."""
        for field in ("geom_size", "geom_pos", "geom_rbound", "geom_aabb", "body_ipos", "body_pos", "bvh_aabb"):
            nominals.scale(field, size)
        nominals.scale("body_mass", mass)
        nominals.scale("body_inertia", mass * size**2)
        nominals.scale("geom_friction", np.array([friction / FRICTION, 1.0, 1.0]))
        nominals.scale("geom_rgba", np.array([*tint, 1.0]))
        nominals.derive()

    def place(self, data: mujoco.MjData, position: np.ndarray, yaw: float) -> None:
        """Puts the toy at `position` [3] m, at rest."""
        data.qpos[self._qpos : self._qpos + 7] = [*position, *yaw_quat(yaw)]
        data.qvel[self._dof : self._dof + 6] = 0.0

    def push(self, data: mujoco.MjData, velocity: np.ndarray) -> None:
        """Adds `velocity` [2] m/s along the table."""
        data.qvel[self._dof : self._dof + 2] += velocity

    def pose(self, data: mujoco.MjData) -> tuple[np.ndarray, float]:
        """Position [3] m of the belly and yaw, rad."""
        head = data.xmat[self._belly].reshape(3, 3)[:, 0]
        return data.xpos[self._belly].copy(), float(np.arctan2(head[1], head[0]))


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
