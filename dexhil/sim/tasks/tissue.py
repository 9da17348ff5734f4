"""Tissue extraction: a tissue sticks out of a pack on the table; pull more than half of its length out."""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np

from dexhil.sim.tasks.base import TissueState, any_hand, check_difficulty, touched_by, yaw_quat
from dexhil.sim.tasks.nominals import Nominals, rows_with_prefix
from dexhil.sim.tasks.tissue_sheets import COLOUR, LENGTH, PAPER, PREFIX, RETENTION_N, VISIBLE, WIDTH, Carrier, Ribbon

LIP_Z = 0.07
PACK_HALF = (0.036, 0.055, 0.09)  # m; the pack reaches below the table top so that it can be raised
SLOT_HALF = (0.006, 0.042)
CENTRE = np.array([0.53, 0.0])
PACK_COLOUR = (0.10, 0.32, 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class TissueDraw:
    """What one reset draws.

    position: [2] m. yaw: rad. height: m, the lip above nominal. visible, width: m. retention: N. curl: rad in all.
    tint: factors.
    """

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
        position=CENTRE + difficulty * np.array([0.14, 0.28]) * unit[:2],
        yaw=float(1.0 * difficulty * unit[2]),
        height=float(0.006 * difficulty * unit[3]),
        visible=float(VISIBLE + 0.005 * difficulty * unit[4]),
        width=float(WIDTH + 0.01 * difficulty * unit[5]),
        retention=float(RETENTION_N + 0.2 * difficulty * unit[6]),
        curl=float(0.9 * difficulty * unit[7]),
        tint=1.0 + difficulty * np.array([0.3, 0.3, 0.2]) * unit[8:11],
    )


class TissueTask:
    """See the module; implements `Task`."""

    name = "tissue"
    instruction = "Pull out a napkin"
    horizon_s = 12.0
    colours = (PACK_COLOUR[:3], COLOUR[:3])

    def __init__(self) -> None:
        self._nominals: Nominals | None = None
        self._sheet = Ribbon()
        self._carrier = Carrier()
        self._draw = draw(np.random.default_rng(0), 0.0)
        self._forget()

    def _forget(self) -> None:
        self._touched = self._succeeded = self._left = False
        self._pulled = 0.0

    def build(self, spec: mujoco.MjSpec) -> None:
        """See `Task`."""
        spec.add_material(name=PAPER, rgba=COLOUR, emission=0.35, specular=0.0)
        self._sheet.build(spec, _add_pack(spec), (0.0, 0.0, LIP_Z + VISIBLE - LENGTH))

    def randomise(
        self, model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, difficulty: float
    ) -> None:
        """See `Task`. Raises ValueError for a difficulty outside [0, 1]."""
        check_difficulty(difficulty)
        self._draw = values = draw(rng, difficulty)
        self._forget()
        nominals = self._bind(model)
        nominals.restore()
        model.body_pos[self._pack] = [*values.position, values.height]
        model.body_quat[self._pack] = yaw_quat(values.yaw)
        nominals.scale("geom_rgba", np.array([*values.tint, 1.0]))
        self._carrier.reset(model, data, values.visible, values.retention)
        self._sheet.reset(nominals, data, width=values.width, curl=values.curl, out=values.visible)
        self._sheet.release(model, data, values.visible)

    def _bind(self, model: mujoco.MjModel) -> Nominals:
        if self._nominals is None or self._nominals.model is not model:
            self._pack = model.body(PREFIX + "pack").id
            pose = dict.fromkeys(("body_pos", "body_quat"), np.array([self._pack]))
            walls = {"geom_rgba": rows_with_prefix(model, "geom", PREFIX + "pack")}
            self._nominals = Nominals(model, {**pose, **walls, **self._carrier.bind(model), **self._sheet.bind(model)})
        return self._nominals

    def before_step(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """Frees what has left the pack since the last step."""
        out = self._carrier.out(data)
        self._left |= out > LENGTH - 0.002
        self._sheet.release(model, data, np.inf if self._left else out)
        if self._left:
            self._carrier.let_go(model, data)

    def update(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """See `Task`."""
        self._touched |= self._in_hand(model, data)
        self._pulled = max(self._pulled, self._carrier.out(data) - self._draw.visible)
        self._succeeded |= self._pulled > LENGTH / 2

    def _in_hand(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        return any_hand(model, touched_by(model, data, self._sheet.geoms))

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
        pack, out = data.body(PREFIX + "pack"), self._carrier.out(data)
        turn = pack.xmat.reshape(3, 3)
        lip, tip = pack.xpos + LIP_Z * turn[:, 2], self._sheet.along(data, LENGTH)
        rise = turn.T @ (tip - lip)
        return TissueState(
            grasp_point=self._sheet.along(data, LENGTH - min(out, LENGTH) / 2),
            tip=tip,
            lip=lip,
            normal_yaw=self._draw.yaw,
            curl=float(np.arctan2(rise[0], rise[2])),
            width=self._draw.width,
            visible=out,
            pulled=out - self._draw.visible,
            length=LENGTH,
            in_hand=self._in_hand(model, data),
        )


def _add_pack(spec: mujoco.MjSpec) -> mujoco.MjsBody:
    """A box open along a slot: two long sides, two short ones, as one look from outside."""
    pack = spec.worldbody.add_body(name=PREFIX + "pack", pos=[*CENTRE, 0.0])
    (half_x, half_y, half_z), (slot_x, slot_y) = PACK_HALF, SLOT_HALF
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
