"""Tissue extraction: a tissue sticks out of a pack; pull more than half of it out.

The sheet is a ribbon of thin boxes on hinges. Its lower end rides on a slide with friction (the pack's grip on it), and hinges are
locked while inside the pack, which stands in for the walls of the slot. Its frame: x the sheet's normal, y its width, z up.
"""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np

from dexhil.sim.tasks.base import (
    HAND_BIT,
    WORLD_BIT,
    TissueState,
    any_hand,
    check_difficulty,
    check_fidelity,
    touched_by,
    yaw_quat,
)
from dexhil.sim.tasks.nominals import Nominals, rows_with_prefix

PREFIX = "tissue_"
LENGTH, WIDTH, THICKNESS = 0.16, 0.06, 0.0016
SEGMENTS = 8
STEP = LENGTH / SEGMENTS
MASS = 0.004
VISIBLE = 0.03
RETENTION_N = 0.5
LIP_Z = 0.07
PACK = (0.036, 0.055, 0.09)  # half sizes; the pack reaches below the table top so that it can be raised
SLOT = (0.006, 0.042)
CENTRE = np.array([0.50, 0.0])
PACK_COLOUR, SHEET_COLOUR = (0.10, 0.32, 0.75, 1.0), (0.97, 0.97, 0.97, 1.0)
GUIDES = ("x", "y", "yaw", "pitch")


@dataclasses.dataclass(frozen=True)
class TissueDraw:
    """What one reset draws. position: [2] m. yaw: rad. height: m, the lip above nominal. curl: rad in all. retention: N."""

    position: np.ndarray
    yaw: float
    height: float
    visible: float
    width: float
    retention: float
    curl: float
    tint: np.ndarray


def draw(rng: np.random.Generator, difficulty: float) -> TissueDraw:
    """Draws a reset; every range grows with `difficulty`, and the same numbers are used whatever it is."""
    unit = rng.uniform(-1.0, 1.0, 12)
    return TissueDraw(
        position=CENTRE + difficulty * np.array([0.10, 0.10]) * unit[:2],
        yaw=float(np.pi / 3 * difficulty * unit[2]),
        height=float(0.02 * difficulty * unit[3]),
        visible=float(VISIBLE + 0.01 * difficulty * unit[4]),
        width=float(WIDTH + 0.01 * difficulty * unit[5]),
        retention=float(RETENTION_N + 0.3 * difficulty * unit[6]),
        curl=float(0.9 * difficulty * unit[7]),
        tint=1.0 + difficulty * np.array([0.3, 0.3, 0.2]) * unit[8:11],
    )


class TissueTask:
    """See the module; implements `Task`."""

    name = "tissue"
    instruction = "Pull out a napkin"
    horizon_s = 12.0

    def __init__(self) -> None:
        self._nominals: Nominals | None = None
        self._draw = draw(np.random.default_rng(0), 0.0)
        self._forget()

    def _forget(self) -> None:
        self._touched = self._succeeded = self._free = False
        self._pulled = 0.0

    def build(self, spec: mujoco.MjSpec, fidelity: str) -> None:
        """See `Task`. Raises ValueError for an unknown fidelity."""
        check_fidelity(fidelity)
        pack = _add_pack(spec)
        _add_ribbon(spec, pack)

    def randomise(self, model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, difficulty: float) -> None:
        """See `Task`. Raises ValueError for a difficulty outside [0, 1]."""
        check_difficulty(difficulty)
        self._draw = draw(rng, difficulty)
        self._forget()
        if self._nominals is None or self._nominals.model is not model:
            self._nominals = _nominals(model)
            self._segments = np.array([model.geom(f"{PREFIX}{i}").id for i in range(SEGMENTS)])
        self._slide = model.joint(PREFIX + "slide")
        _apply(self._nominals, model, self._draw)
        model.jnt_range[self._slide.id, 0] = data.qpos[self._slide.qposadr[0]] = self._draw.visible - VISIBLE
        _curl(model, data, self._draw)
        self._release(model, data)

    def before_step(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """Frees what has left the pack since the last step."""
        self._release(model, data)

    def _out(self, data: mujoco.MjData) -> float:
        """m of the sheet above the lip, along the sheet."""
        return float(data.qpos[self._slide.qposadr[0]]) + VISIBLE

    def _release(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        out = self._out(data)
        for i in range(1, SEGMENTS):
            data.eq_active[model.equality(f"{PREFIX}lock{i}").id] = LENGTH - i * STEP > out
        clear = LENGTH - np.arange(SEGMENTS) * STEP < out - 0.01
        model.geom_conaffinity[self._segments] = np.where(clear, HAND_BIT | WORLD_BIT, HAND_BIT)
        self._free |= out > LENGTH - 0.002
        if self._free:
            model.jnt_range[self._slide.id, 0] = -10.0
            model.dof_frictionloss[self._slide.dofadr[0]] = 0.0
            model.geom_conaffinity[self._segments] = HAND_BIT | WORLD_BIT
            for guide in GUIDES:
                data.eq_active[model.equality(f"{PREFIX}guide_{guide}").id] = 0

    def update(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """See `Task`."""
        self._touched |= self._in_hand(model, data)
        self._pulled = max(self._pulled, self._out(data) - self._draw.visible)
        self._succeeded |= self._pulled > LENGTH / 2

    def _in_hand(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        return any_hand(model, touched_by(model, data, self._segments, np.zeros(0)))

    def success(self) -> bool:
        """See `Task`."""
        return self._succeeded

    def failure(self) -> str:
        """See `Task`; the furthest stage that was reached and what went wrong there."""
        if self._succeeded:
            return ""
        if not self._touched:
            return "never_touched"
        return "touched_not_grasped" if self._pulled < 0.01 else "not_far_enough"

    def privileged(self, model: mujoco.MjModel, data: mujoco.MjData) -> TissueState:
        """See `Task`."""
        pack = data.body(PREFIX + "pack")
        lip = pack.xpos + pack.xmat.reshape(3, 3) @ np.array([0.0, 0.0, LIP_Z])
        tip, middle = _along(data, LENGTH), _along(data, LENGTH - self._out(data) / 2)
        rise = pack.xmat.reshape(3, 3).T @ (tip - lip)
        return TissueState(
            grasp_point=middle,
            tip=tip,
            lip=lip,
            normal_yaw=self._draw.yaw,
            curl=float(np.arctan2(rise[0], rise[2])),
            width=self._draw.width,
            visible=self._out(data),
            pulled=self._out(data) - self._draw.visible,
            length=LENGTH,
            in_hand=self._in_hand(model, data),
        )


def _along(data: mujoco.MjData, distance: float) -> np.ndarray:
    """Point [3] m on the sheet's middle line, `distance` m from its lower end."""
    index = min(int(distance / STEP), SEGMENTS - 1)
    body = data.body(f"{PREFIX}{index}")
    return body.xpos + body.xmat.reshape(3, 3)[:, 2] * (distance - index * STEP)


def _add_pack(spec: mujoco.MjSpec) -> mujoco.MjsBody:
    """A box open along a slot: two long sides, two short ones, as one look from outside."""
    pack = spec.worldbody.add_body(name=PREFIX + "pack", pos=[*CENTRE, 0.0])
    (half_x, half_y, half_z), (slot_x, slot_y) = PACK, SLOT
    z = LIP_Z - half_z
    for name, size, pos in (
        ("front", ((half_x - slot_x) / 2, half_y, half_z), ((half_x + slot_x) / 2, 0, z)),
        ("back", ((half_x - slot_x) / 2, half_y, half_z), (-(half_x + slot_x) / 2, 0, z)),
        ("left", (slot_x, (half_y - slot_y) / 2, half_z), (0, (half_y + slot_y) / 2, z)),
        ("right", (slot_x, (half_y - slot_y) / 2, half_z), (0, -(half_y + slot_y) / 2, z)),
    ):
        geom = pack.add_geom(name=f"{PREFIX}pack_{name}", type=mujoco.mjtGeom.mjGEOM_BOX, size=size, pos=pos)
        geom.rgba = PACK_COLOUR
    return pack


def _add_ribbon(spec: mujoco.MjSpec, pack: mujoco.MjsBody) -> None:
    spec.add_material(name=PREFIX + "paper", rgba=SHEET_COLOUR, emission=0.35, specular=0.0)
    body = pack.add_body(name=f"{PREFIX}0", pos=[0, 0, LIP_Z + VISIBLE - LENGTH])
    _add_guides(spec, body)
    _add_segment(body, 0)
    for i in range(1, SEGMENTS):
        body = body.add_body(name=f"{PREFIX}{i}", pos=[0, 0, STEP])
        hinge = body.add_joint(name=f"{PREFIX}hinge{i}", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 1, 0], armature=2e-6)
        hinge.stiffness[0], hinge.damping[0] = 8e-4, 4e-5
        hinge.range, hinge.limited = (-1.3, 1.3), 1
        _add_segment(body, i)
        _add_lock(spec, f"lock{i}", f"hinge{i}")


def _add_guides(spec: mujoco.MjSpec, root: mujoco.MjsBody) -> None:
    """The lower end's joints: it slides up against friction; the rest is locked until the sheet has left the pack."""
    slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
    up = root.add_joint(name=PREFIX + "slide", type=slide, axis=[0, 0, 1], armature=2e-3, frictionloss=RETENTION_N)
    up.damping[0], up.range, up.limited = 0.2, (0.0, 10.0), 1
    for name, kind, axis in (("x", slide, [1, 0, 0]), ("y", slide, [0, 1, 0]), ("yaw", hinge, [0, 0, 1]), ("pitch", hinge, [0, 1, 0])):
        joint = root.add_joint(name=PREFIX + name, type=kind, axis=axis, armature=1e-3 if kind == slide else 2e-6)
        joint.damping[0] = 0.05 if kind == slide else 4e-5
        _add_lock(spec, f"guide_{name}", name)


def _add_lock(spec: mujoco.MjSpec, name: str, joint: str) -> None:
    lock = spec.add_equality(name=PREFIX + name, type=mujoco.mjtEq.mjEQ_JOINT, name1=PREFIX + joint)
    lock.data[:5] = 0.0
    lock.solref[:2] = (0.01, 1.0)


def _add_segment(body: mujoco.MjsBody, index: int) -> None:
    geom = body.add_geom(name=f"{PREFIX}{index}", type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0, 0, STEP / 2], mass=MASS / SEGMENTS)
    geom.size, geom.material = (THICKNESS / 2, WIDTH / 2, STEP / 2 + 0.001), PREFIX + "paper"
    geom.contype, geom.conaffinity = 0, HAND_BIT
    geom.priority, geom.condim, geom.friction = 1, 4, (1.2, 0.01, 0.0005)


def _nominals(model: mujoco.MjModel) -> Nominals:
    pack, slide = model.body(PREFIX + "pack").id, model.joint(PREFIX + "slide").dofadr
    hinges = np.array([model.joint(f"{PREFIX}hinge{i}").qposadr[0] for i in range(1, SEGMENTS)])
    segments = np.array([model.geom(f"{PREFIX}{i}").id for i in range(SEGMENTS)])
    geoms = rows_with_prefix(model, "geom", PREFIX + "pack")
    return Nominals(
        model,
        {
            "body_pos": np.array([pack]),
            "body_quat": np.array([pack]),
            "jnt_range": model.joint(PREFIX + "slide").id * np.ones(1, int),
            "dof_frictionloss": slide,
            "qpos_spring": hinges,
            "geom_size": segments,
            "geom_aabb": segments,
            "geom_rbound": segments,
            "geom_conaffinity": segments,
            "geom_rgba": geoms,
        },
    )


def _apply(nominals: Nominals, model: mujoco.MjModel, values: TissueDraw) -> None:
    """Writes the drawn pack pose, retention, width and colour into the model."""
    nominals.restore()
    pack = model.body(PREFIX + "pack").id
    model.body_pos[pack] = [*values.position, values.height]
    model.body_quat[pack] = yaw_quat(values.yaw)
    nominals.scale("dof_frictionloss", values.retention / RETENTION_N)
    wider = values.width / WIDTH
    nominals.scale("geom_size", np.array([1.0, wider, 1.0]))
    nominals.scale("geom_aabb", np.array([1.0, 1.0, 1.0, 1.0, wider, 1.0]))
    nominals.scale("geom_rbound", max(wider, 1.0))
    nominals.scale("geom_rgba", np.array([*values.tint, 1.0]))


def _curl(model: mujoco.MjModel, data: mujoco.MjData, values: TissueDraw) -> None:
    """Bends the visible hinges, at rest and in their springs, so that the tip leans by `curl`."""
    bent = [i for i in range(1, SEGMENTS) if LENGTH - i * STEP <= values.visible]
    for i in bent:
        address = model.joint(f"{PREFIX}hinge{i}").qposadr[0]
        model.qpos_spring[address] = data.qpos[address] = values.curl / len(bent)
