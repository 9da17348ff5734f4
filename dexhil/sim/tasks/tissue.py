"""Tissue extraction: a tissue sticks out of a pack on the table; pull more than half of its length out."""

import dataclasses

import mujoco
import numpy as np

from dexhil.sim.tasks.base import HAND_BIT, WORLD_BIT, Task, TissueState, any_hand, yaw_quat
from dexhil.sim.tasks.nominals import Nominals, Rows, rows_with_prefix

# Of the nominal sheet and pack, as in `tissue.xml`; m, N.
LENGTH, WIDTH, VISIBLE, LIP_Z = 0.16, 0.06, 0.037, 0.07
RETENTION_N = 0.5
ROWS = 8
STEP = LENGTH / ROWS
_STARTS = LENGTH - STEP * np.arange(ROWS)  # m that are out when a box's lower edge is at the lip
CENTRE = np.array([0.53, 0.0])


@dataclasses.dataclass(frozen=True)
class TissueDraw:
    """What a reset draws: position [2] m, yaw and curl rad, height, visible and width m, retention N, tint factors."""

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


class TissueTask(Task):
    """See the module; pack and sheet are `tissue.xml`. `out`: m of the sheet above the pack's lip."""

    name = "tissue"
    instruction = "Pull out a napkin"
    horizon_s = 12.0
    colours = ((0.10, 0.32, 0.75), (0.97, 0.97, 0.97))

    def _bind(self, model: mujoco.MjModel) -> Rows:
        self._pack, slide = model.body("tissue_pack").id, model.joint("tissue_slide")
        self._slide, self._qpos, self._dof = slide.id, slide.qposadr[0], slide.dofadr[0]
        self._guides = np.array([model.equality(f"tissue_guide_{name}").id for name in ("x", "y", "yaw", "pitch")])
        self._geoms = np.array([model.geom(f"tissue_{i}").id for i in range(ROWS)])
        self._hinges = np.array([model.joint(f"tissue_hinge{i}").qposadr[0] for i in range(1, ROWS)])
        self._locks = np.array([model.equality(f"tissue_lock{i}").id for i in range(1, ROWS)])
        return {
            **dict.fromkeys(("body_pos", "body_quat"), np.array([self._pack])),
            "geom_rgba": rows_with_prefix(model, "geom", "tissue_pack"),
            "jnt_range": np.array([self._slide]),
            "dof_frictionloss": np.array([self._dof]),
            **dict.fromkeys(("geom_size", "geom_aabb", "geom_rbound", "geom_conaffinity"), self._geoms),
            "qpos_spring": self._hinges,
        }

    def _reset(self, nominals: Nominals, data: mujoco.MjData, rng: np.random.Generator, difficulty: float) -> None:
        model, self._left, self._pulled = nominals.model, False, 0.0
        self._draw = values = draw(rng, difficulty)
        model.body_pos[self._pack] = [*values.position, values.height]
        model.body_quat[self._pack] = yaw_quat(values.yaw)
        nominals.scale("geom_rgba", np.array([*values.tint, 1.0]))
        data.qpos[self._qpos] = model.jnt_range[self._slide, 0] = values.visible - VISIBLE  # no further into the pack
        model.dof_frictionloss[self._dof] = values.retention
        wider = values.width / WIDTH
        nominals.scale("geom_size", np.array([1.0, wider, 1.0]))
        nominals.scale("geom_aabb", np.array([1.0, 1.0, 1.0, 1.0, wider, 1.0]))
        nominals.scale("geom_rbound", max(wider, 1.0))
        free = _STARTS[1:] <= values.visible
        model.qpos_spring[self._hinges] = data.qpos[self._hinges] = values.curl * free / free.sum()
        self._release(model, data, values.visible)

    def before_step(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """Frees what has left the pack since the last step."""
        out = self._out(data)
        self._left |= out > LENGTH - 0.002
        self._release(model, data, np.inf if self._left else out)
        if self._left:  # nothing holds or guides it any more
            data.eq_active[self._guides] = 0
            model.dof_frictionloss[self._dof] = 0.0
            model.jnt_range[self._slide, 0] = -10.0

    def _release(self, model: mujoco.MjModel, data: mujoco.MjData, out: float) -> None:
        """Opens the locks of what is above the lip; boxes clear of it also meet the table and the pack."""
        data.eq_active[self._locks] = _STARTS[1:] > out
        clear = out - 0.01 > _STARTS
        model.geom_conaffinity[self._geoms] = np.where(clear, HAND_BIT | WORLD_BIT, HAND_BIT)

    def _out(self, data: mujoco.MjData) -> float:
        return float(data.qpos[self._qpos]) + VISIBLE

    def update(self, model: mujoco.MjModel, data: mujoco.MjData, time_s: float) -> None:
        """See `Task`."""
        self._touched |= any_hand(model, self._contacts(data))
        self._pulled = max(self._pulled, self._out(data) - self._draw.visible)
        self._succeeded |= self._pulled > LENGTH / 2

    def failure(self) -> str:
        """See `Task`."""
        if self._succeeded:
            return ""
        if not self._touched:
            return "never_touched"
        return "touched_not_grasped" if self._pulled < 0.01 else "not_far_enough"

    def privileged(self, model: mujoco.MjModel, data: mujoco.MjData) -> TissueState:
        """See `Task`."""
        pack, out = data.body("tissue_pack"), self._out(data)
        return TissueState(
            grasp_point=_point_along(data, LENGTH - min(out, LENGTH) / 2),
            tip=_point_along(data, LENGTH),
            lip=pack.xpos + LIP_Z * pack.xmat.reshape(3, 3)[:, 2],
            normal_yaw=self._draw.yaw,
            visible=out,
            pulled=out - self._draw.visible,
            in_hand=any_hand(model, self._contacts(data)),
        )


def _point_along(data: mujoco.MjData, distance: float) -> np.ndarray:
    index = min(int(distance / STEP), ROWS - 1)
    body = data.body(f"tissue_{index}")
    return body.xpos + body.xmat.reshape(3, 3)[:, 2] * (distance - index * STEP)
