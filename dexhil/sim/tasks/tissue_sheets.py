"""The tissue's sheet: a ribbon of hinged boxes.

It hangs on a carrier: a body inside the pack that slides up against friction, `SLIDE`. What is below the pack's lip is
held straight by locks, which stand in for the walls of the slot and open as the sheet comes out. Sheet frame: x normal,
y width, z up, origin at the sheet's lower edge. `out` is the length above the lip, m.
"""

from __future__ import annotations

import mujoco
import numpy as np

from dexhil.sim.tasks.base import HAND_BIT, WORLD_BIT
from dexhil.sim.tasks.nominals import Nominals, Rows

PREFIX = "tissue_"
SLIDE = PREFIX + "slide"
LENGTH, WIDTH, THICKNESS = 0.16, 0.06, 0.0016
VISIBLE = 0.037
ROWS = 8
STEP = LENGTH / ROWS
MASS_KG = 0.004
RETENTION_N = 0.5
COLOUR = (0.97, 0.97, 0.97, 1.0)
PAPER = PREFIX + "paper"
FRICTION = (1.6, 0.01, 0.0005)
GUIDES = ("x", "y", "yaw", "pitch")


class Carrier:
    """The sheet's lower end: slides up against friction; its other joints are locked until it has left the pack."""

    def bind(self, model: mujoco.MjModel) -> Rows:
        """Looks up ids; returns the model rows that `reset` and `let_go` change."""
        joint = model.joint(SLIDE)
        self._joint, self._qpos, self._dof = joint.id, joint.qposadr[0], joint.dofadr[0]
        self._guides = np.array([model.equality(f"{PREFIX}guide_{name}").id for name in GUIDES])
        return {"jnt_range": np.array([self._joint]), "dof_frictionloss": np.array([self._dof])}

    def reset(self, model: mujoco.MjModel, data: mujoco.MjData, out: float, retention: float) -> None:
        """Puts the sheet `out` m above the lip, held by `retention` N; it cannot be pushed further in."""
        data.qpos[self._qpos] = model.jnt_range[self._joint, 0] = out - VISIBLE
        model.dof_frictionloss[self._dof] = retention

    def out(self, data: mujoco.MjData) -> float:
        """m above the lip, by slide displacement."""
        return float(data.qpos[self._qpos]) + VISIBLE

    def let_go(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """The sheet has left the pack: nothing holds or guides it."""
        data.eq_active[self._guides] = 0
        model.dof_frictionloss[self._dof] = 0.0
        model.jnt_range[self._joint, 0] = -10.0


class Ribbon:
    """Boxes on hinges about the width. `bind` comes once per compiled model, `reset` once per episode."""

    def __init__(self) -> None:
        self.geoms = np.zeros(0, int)

    def build(self, spec: mujoco.MjSpec, pack: mujoco.MjsBody, at: tuple[float, float, float]) -> None:
        """Adds the sheet to the pack, its lower edge `at` [3] m in the pack's frame."""
        body = pack.add_body(name=f"{PREFIX}0", pos=at)
        add_carrier(spec, body)
        self._add_box(body, 0)
        for i in range(1, ROWS):
            body = body.add_body(name=f"{PREFIX}{i}", pos=(0, 0, STEP))
            hinge = body.add_joint(
                name=f"{PREFIX}hinge{i}", type=mujoco.mjtJoint.mjJNT_HINGE, axis=(0, 1, 0), armature=2e-6
            )
            hinge.stiffness[0], hinge.damping[0] = 8e-4, 4e-5
            hinge.range, hinge.limited = (-1.3, 1.3), 1
            add_lock(spec, f"lock{i}", hinge.name)
            self._add_box(body, i)

    def _add_box(self, body: mujoco.MjsBody, index: int) -> None:
        geom = body.add_geom(
            name=f"{PREFIX}{index}", type=mujoco.mjtGeom.mjGEOM_BOX, pos=(0, 0, STEP / 2), mass=MASS_KG / ROWS
        )
        geom.size, geom.material = (THICKNESS / 2, WIDTH / 2, STEP / 2 + 0.001), PAPER
        geom.contype, geom.conaffinity = 0, HAND_BIT
        geom.priority, geom.condim, geom.friction = 1, 4, FRICTION

    def bind(self, model: mujoco.MjModel) -> Rows:
        """Looks up ids; returns the model rows that `reset` and `release` change."""
        self.geoms = np.array([model.geom(f"{PREFIX}{i}").id for i in range(ROWS)])
        self._hinges = np.array([model.joint(f"{PREFIX}hinge{i}").qposadr[0] for i in range(1, ROWS)])
        self._locks = np.array([model.equality(f"{PREFIX}lock{i}").id for i in range(1, ROWS)])
        self._starts = LENGTH - STEP * np.arange(ROWS)  # how much is out when a box's lower edge is at the lip
        shape = dict.fromkeys(("geom_size", "geom_aabb", "geom_rbound", "geom_conaffinity"), self.geoms)
        return {**shape, "qpos_spring": self._hinges}

    def reset(self, nominals: Nominals, data: mujoco.MjData, *, width: float, curl: float, out: float) -> None:
        """Shapes the sheet: width m, and curl rad of the visible part in all, which is also its shape at rest."""
        wider = width / WIDTH
        nominals.scale("geom_size", np.array([1.0, wider, 1.0]))
        nominals.scale("geom_aabb", np.array([1.0, 1.0, 1.0, 1.0, wider, 1.0]))
        nominals.scale("geom_rbound", max(wider, 1.0))
        free = self._starts[1:] <= out
        nominals.model.qpos_spring[self._hinges] = data.qpos[self._hinges] = curl * free / free.sum()

    def release(self, model: mujoco.MjModel, data: mujoco.MjData, out: float) -> None:
        """Opens the locks of what is above the lip; boxes clear of it also meet the table and the pack."""
        data.eq_active[self._locks] = self._starts[1:] > out
        clear = self._starts < out - 0.01
        model.geom_conaffinity[self.geoms] = np.where(clear, HAND_BIT | WORLD_BIT, HAND_BIT)

    def along(self, data: mujoco.MjData, distance: float) -> np.ndarray:
        """Point [3] m on the sheet's middle line, `distance` m from its lower edge."""
        index = min(int(distance / STEP), ROWS - 1)
        body = data.body(f"{PREFIX}{index}")
        return body.xpos + body.xmat.reshape(3, 3)[:, 2] * (distance - index * STEP)


def add_carrier(spec: mujoco.MjSpec, body: mujoco.MjsBody) -> None:
    """Adds a carrier's joints to `body`."""
    slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
    up = body.add_joint(name=SLIDE, type=slide, axis=(0, 0, 1), armature=2e-3, frictionloss=RETENTION_N)
    up.damping[0], up.range, up.limited = 0.2, (0.0, 10.0), 1
    axes = {"x": (1, 0, 0), "y": (0, 1, 0), "yaw": (0, 0, 1), "pitch": (0, 1, 0)}
    for name in GUIDES:
        kind, armature, damping = (slide, 1e-3, 0.05) if name in "xy" else (hinge, 2e-6, 4e-5)
        joint = body.add_joint(name=PREFIX + name, type=kind, axis=axes[name], armature=armature)
        joint.damping[0] = damping
        add_lock(spec, f"guide_{name}", PREFIX + name)


def add_lock(spec: mujoco.MjSpec, name: str, joint: str) -> None:
    """An equality, PREFIX + name, that holds `joint` at zero while it is active."""
    lock = spec.add_equality(name=PREFIX + name, type=mujoco.mjtEq.mjEQ_JOINT, name1=joint)
    lock.objtype = mujoco.mjtObj.mjOBJ_JOINT
    lock.data[:5] = 0.0
    lock.solref[:2] = (0.01, 1.0)
