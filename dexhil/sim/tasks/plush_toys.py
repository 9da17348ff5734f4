"""The two models of the plush bear: a ragdoll of soft-contact ellipsoids (fast) and a trilinear flex body of its shape.

Toy frame: x to the head, y to the bear's left, z up from its back, origin in the middle of the belly.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Protocol

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
CELL_M = 0.018
FLEX_TIMESTEP_S = 0.0025
FLEX_CELLS = "1 1 1"
FLEX_YOUNG = 2e4


class Toy(Protocol):
    """What the task needs of a toy. `bind` comes once per compiled model, `reset` and `place` once per episode."""

    geoms: np.ndarray
    flexes: np.ndarray

    def build(self, spec: mujoco.MjSpec) -> None:
        """Adds the toy to the scene, at the origin."""
        ...

    def bind(self, model: mujoco.MjModel) -> Rows:
        """Looks up ids; returns the model rows that `reset` changes."""
        ...

    def reset(self, nominals: Nominals, *, size: float, mass: float, friction: float, tint: np.ndarray) -> float:
        """Writes factors of size and mass, the friction coefficient, colour factors [3]; returns the size it took."""
        ...

    def place(self, data: mujoco.MjData, position: np.ndarray, yaw: float) -> None:
        """Puts the toy at `position` [3] m, at rest."""
        ...

    def push(self, data: mujoco.MjData, velocity: np.ndarray) -> None:
        """Adds `velocity` [2] m/s along the table."""
        ...

    def pose(self, data: mujoco.MjData) -> tuple[np.ndarray, float]:
        """Position [3] m of the belly and yaw, rad."""
        ...


class Ragdoll:
    """Ellipsoids on ball joints; they touch the world, not each other."""

    def __init__(self) -> None:
        self.geoms, self.flexes = np.zeros(0, int), np.zeros(0, int)

    def build(self, spec: mujoco.MjSpec) -> None:
        """See `Toy`."""
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
        """See `Toy`."""
        self.geoms, bodies = rows_with_prefix(model, "geom", PREFIX), rows_with_prefix(model, "body", PREFIX)
        root = model.joint(PREFIX + "root")
        self._belly, self._qpos, self._dof = bodies[0], root.qposadr[0], root.dofadr[0]
        lengths = ("geom_size", "geom_pos", "geom_rbound", "geom_aabb")
        rows = dict.fromkeys((*lengths, "geom_friction", "geom_rgba"), self.geoms)
        rows |= dict.fromkeys(("body_mass", "body_inertia", "body_ipos"), bodies)
        return rows | {"body_pos": bodies[1:], "bvh_aabb": bvh_rows(model, bodies)}

    def reset(self, nominals: Nominals, *, size: float, mass: float, friction: float, tint: np.ndarray) -> float:
        """See `Toy`."""
        for field in ("geom_size", "geom_pos", "geom_rbound", "geom_aabb", "body_ipos", "body_pos", "bvh_aabb"):
            nominals.scale(field, size)
        nominals.scale("body_mass", mass)
        nominals.scale("body_inertia", mass * size**2)
        nominals.scale("geom_friction", np.array([friction / FRICTION, 1.0, 1.0]))
        nominals.scale("geom_rgba", np.array([*tint, 1.0]))
        nominals.derive()
        return size

    def place(self, data: mujoco.MjData, position: np.ndarray, yaw: float) -> None:
        """See `Toy`."""
        data.qpos[self._qpos : self._qpos + 7] = [*position, *yaw_quat(yaw)]
        data.qvel[self._dof : self._dof + 6] = 0.0

    def push(self, data: mujoco.MjData, velocity: np.ndarray) -> None:
        """See `Toy`."""
        data.qvel[self._dof : self._dof + 2] += velocity

    def pose(self, data: mujoco.MjData) -> tuple[np.ndarray, float]:
        """See `Toy`."""
        head = data.xmat[self._belly].reshape(3, 3)[:, 0]
        return data.xpos[self._belly].copy(), float(np.arctan2(head[1], head[0]))


class FlexToy:
    """One soft body: tetrahedra in the bear's shape on a trilinear lattice. Size and colour stay as compiled."""

    def __init__(self) -> None:
        self.geoms, self.flexes = np.zeros(0, int), np.zeros(0, int)

    def build(self, spec: mujoco.MjSpec) -> None:
        """See `Toy`; also sets the integrator that flex elasticity needs."""
        spec.option.integrator, spec.option.timestep = mujoco.mjtIntegrator.mjINT_DISCRETE, FLEX_TIMESTEP_S
        points, elements = _bear_mesh()
        part = mujoco.MjSpec.from_string(_flex_xml(points, elements))
        spec.attach(part, frame=spec.worldbody.add_frame(), prefix=PREFIX)
        _paint(spec, spec.flex(PREFIX + "bear"), points)

    def bind(self, model: mujoco.MjModel) -> Rows:
        """See `Toy`."""
        self.flexes = np.array([mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_FLEX, PREFIX + "bear")])
        self._bodies = rows_with_prefix(model, "body", PREFIX + "bear")
        self._nodes = model.body_pos[self._bodies].copy()
        self._qpos = model.jnt_qposadr[model.body_jntadr[self._bodies]][:, None] + np.arange(3)
        self._dofs = model.jnt_dofadr[model.body_jntadr[self._bodies]][:, None] + np.arange(3)
        return {"body_mass": self._bodies, "body_inertia": self._bodies, "flex_friction": self.flexes}

    def reset(self, nominals: Nominals, *, size: float, mass: float, friction: float, tint: np.ndarray) -> float:
        """See `Toy`."""
        nominals.scale("body_mass", mass)
        nominals.scale("body_inertia", mass)
        nominals.scale("flex_friction", np.array([friction / FRICTION, 1.0, 1.0]))
        nominals.derive()
        return 1.0

    def place(self, data: mujoco.MjData, position: np.ndarray, yaw: float) -> None:
        """See `Toy`."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        data.qpos[self._qpos] = self._nodes @ turn.T + position - self._nodes
        data.qvel[self._dofs] = 0.0

    def push(self, data: mujoco.MjData, velocity: np.ndarray) -> None:
        """See `Toy`."""
        data.qvel[self._dofs[:, :2]] += velocity

    def pose(self, data: mujoco.MjData) -> tuple[np.ndarray, float]:
        """See `Toy`; the lattice's centre and its long axis."""
        nodes = data.xpos[self._bodies]
        rest = self._nodes - self._nodes.mean(axis=0)
        axes = np.linalg.lstsq(rest, nodes - nodes.mean(axis=0), rcond=None)[0]  # rows: where x, y, z went
        centre = nodes.mean(axis=0) - self._nodes.mean(axis=0) @ axes
        return centre, float(np.arctan2(axes[0, 1], axes[0, 0]))


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


def _bear_mesh() -> tuple[np.ndarray, np.ndarray]:
    """Points [n, 3] m, tetrahedra [t, 4] that fill the solid parts: cubes of CELL_M, corners pulled to the surface."""
    reach = np.array([0.13, 0.1, 0.04])
    grid = np.stack(np.meshgrid(*(np.arange(-r, r, CELL_M) for r in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    cells = grid[_outside(grid + CELL_M / 2) < 0]
    corners = (cells[:, None] / CELL_M + np.array(list(itertools.product((0, 1), repeat=3)))[None]).round(6)
    points, index = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    cubes = index.reshape(-1, 8)
    surface = np.bincount(cubes.ravel(), minlength=len(points)) < 8
    points = points * CELL_M
    points[surface] = _towards_surface(points[surface])
    paths = [(0, a, a + b, 7) for a, b in itertools.permutations((1, 2, 4), 2)]  # six tetrahedra round the diagonal
    return points, np.concatenate([cubes[:, list(path)] for path in paths])


def _outside(points: np.ndarray) -> np.ndarray:
    """[n] signed measure of `points` [n, 3]: below 0 inside one of the solid parts."""
    solid = [part for part in PARTS if part.name in MASS or part.name.startswith("ear")]
    return np.min([np.linalg.norm((points - part.centre) / part.radii, axis=1) - 1.0 for part in solid], axis=0)


def _towards_surface(points: np.ndarray) -> np.ndarray:
    """`points` [n, 3] moved most of the way to the surface, by Newton steps along the gradient, at most 0.4 cells."""
    moved = points.copy()
    for _ in range(4):
        value = _outside(moved)
        gradient = np.stack([(_outside(moved + 1e-4 * axis) - value) / 1e-4 for axis in np.eye(3)], axis=1)
        moved -= (value / np.maximum((gradient**2).sum(axis=1), 1e-6))[:, None] * gradient
    step = moved - points
    size = np.linalg.norm(step, axis=1, keepdims=True)
    return points + step * np.minimum(1.0, 0.4 * CELL_M / np.maximum(size, 1e-9))


def _flex_xml(points: np.ndarray, elements: np.ndarray) -> str:
    numbers = " ".join(f"{value:.5f}" for value in points.ravel())
    ids = " ".join(str(value) for value in elements.ravel())
    return f"""
    <mujoco><worldbody>
      <flexcomp name="bear" type="direct" dim="3" dof="trilinear" cellcount="{FLEX_CELLS}" mass="{sum(MASS.values())}"
          radius="0.003" point="{numbers}" element="{ids}">
        <contact selfcollide="none" contype="0" conaffinity="{WORLD_BIT}" condim="4" priority="1"
            friction="{FRICTION} 0.01 0.0005" solref="{SOFT_SOLREF[0]} {SOFT_SOLREF[1]}"/>
        <elasticity young="{FLEX_YOUNG}" poisson="0.2" damping="0.01"/>
      </flexcomp></worldbody></mujoco>"""


def _paint(spec: mujoco.MjSpec, flex: mujoco.MjsFlex, points: np.ndarray) -> None:
    """Colours the flex with the ragdoll seen from above."""
    size = 128
    low, high = points.min(axis=0)[:2], points.max(axis=0)[:2]
    image = _view_from_above(low, high, size)
    texture = spec.add_texture(
        name=PREFIX + "fur", type=mujoco.mjtTexture.mjTEXTURE_2D, width=size, height=size, nchannel=3
    )
    texture.data = image.tobytes()
    material = spec.add_material(name=PREFIX + "fur")
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = texture.name
    flex.material = material.name
    flex.texcoord = ((points[:, :2] - low) / (high - low)).astype(np.float32).ravel()


def _view_from_above(low: np.ndarray, high: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the colour of the topmost part; rows along y, columns along x."""
    ticks = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(low[0] + ticks * (high[0] - low[0]), low[1] + ticks * (high[1] - low[1]))
    top, image = np.full((size, size), -1.0), np.broadcast_to(COLOURS["fur"][:3], (size, size, 3)).copy()
    for part in PARTS:
        inside = 1.0 - ((x - part.centre[0]) / part.radii[0]) ** 2 - ((y - part.centre[1]) / part.radii[1]) ** 2
        height = part.centre[2] + part.radii[2] * np.sqrt(np.maximum(inside, 0.0))
        shown = (inside > 0) & (height > top)
        top[shown], image[shown] = height[shown], COLOURS[part.colour][:3]
    return (255 * image).astype(np.uint8)
