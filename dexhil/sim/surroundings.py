"""What a policy must look past: colours, light, the scene camera's place, clutter in the colours of the object."""

import colorsys
from collections.abc import Sequence

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.sim.tasks.base import yaw_quat
from dexhil.sim.tasks.nominals import Nominals, rows_with_prefix

CLUTTER = 8  # objects in the scene; how many of them a reset shows grows with the difficulty
REGION = np.array([[0.32, -0.36], [0.78, 0.36]])  # m, where clutter lies in the base frame
CLEAR_M = 0.15  # clutter keeps away from the task's object
SCENE_TARGET = np.array([0.47, 0.0, 0.095])  # m, base frame: what the scene camera looks at
EYE_M, TARGET_M = 0.07, 0.035  # how far the scene camera and its aim move at difficulty 1
WRIST_M, WRIST_RAD = 0.01, 0.10  # how far the wrist camera is off its mount at difficulty 1
Colours = Sequence[tuple[float, float, float]]
_AWAY = (0.0, 0.0, -3.0)  # below the floor
_PREFIX = "clutter_"
_SHAPES = (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_ELLIPSOID)


def add_clutter(spec: mujoco.MjSpec) -> None:
    """Adds what `Surroundings` places, before the scene is compiled."""
    for index in range(CLUTTER):
        body = spec.worldbody.add_body(name=f"{_PREFIX}{index}", pos=_AWAY)
        body.add_geom(
            name=f"{_PREFIX}{index}", type=_SHAPES[index % len(_SHAPES)], size=(0.03, 0.03, 0.03),
            contype=0, conaffinity=0, mass=0,
        )  # fmt: skip


class Surroundings:
    """The surroundings of one compiled scene. Make it before anything in the model was changed."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._room = rows_with_prefix(model, "geom", "room_")
        self._bodies = rows_with_prefix(model, "body", _PREFIX)
        self._geoms = rows_with_prefix(model, "geom", _PREFIX)
        lights = np.arange(model.nlight)
        self._nominals = Nominals(model, {"geom_rgba": self._room, "light_diffuse": lights, "light_pos": lights})
        self._scene, self._wrist = model.camera("scene").id, model.camera("wrist").id
        self._eye = model.cam_pos[self._scene].copy()
        self._mount = model.cam_pos[self._wrist].copy(), model.cam_quat[self._wrist].copy()

    def randomise(self, rng: np.random.Generator, difficulty: float, keep_clear: np.ndarray, colours: Colours) -> None:
        """Draws new surroundings; clutter does not hide the object at `keep_clear` [2] m. Then call mj_forward."""
        self._nominals.restore()
        self._colour_room(rng, difficulty)
        self._light(rng, difficulty)
        self._move_cameras(rng, difficulty)
        self._place_clutter(rng, difficulty, keep_clear, colours)

    def _move_cameras(self, rng: np.random.Generator, difficulty: float) -> None:
        eye, target, shift, turn = (
            rng.uniform(-1.0, 1.0, 3) * difficulty * reach for reach in (EYE_M, TARGET_M, WRIST_M, WRIST_RAD)
        )
        self._model.cam_pos[self._scene] = self._eye + eye
        self._model.cam_quat[self._scene] = look_at(self._eye + eye, SCENE_TARGET + target)
        position, quaternion = self._mount
        self._model.cam_pos[self._wrist] = position + shift
        turned = Rotation.from_quat(quaternion, scalar_first=True) * Rotation.from_rotvec(turn)
        self._model.cam_quat[self._wrist] = turned.as_quat(scalar_first=True)

    def _colour_room(self, rng: np.random.Generator, difficulty: float) -> None:
        nominal = self._model.geom_rgba[self._room, :3]
        drawn = np.array([_colour(rng, saturation=(0.0, 0.6), value=(0.2, 0.9)) for _ in self._room])
        self._model.geom_rgba[self._room, :3] = nominal + min(1.0, 2.0 * difficulty) * (drawn - nominal)

    def _light(self, rng: np.random.Generator, difficulty: float) -> None:
        lights = self._model.nlight
        self._nominals.scale("light_diffuse", 1.0 + 0.8 * difficulty * rng.uniform(-1.0, 1.0, (lights, 1)))
        self._model.light_pos[:, :2] += 0.8 * difficulty * rng.uniform(-1.0, 1.0, (lights, 2))

    def _place_clutter(
        self, rng: np.random.Generator, difficulty: float, keep_clear: np.ndarray, colours: Colours
    ) -> None:
        """A fixed number of draws per object, so that what comes after does not depend on what was rejected."""
        taken = [(np.asarray(keep_clear), CLEAR_M)]
        for body, geom in zip(self._bodies, self._geoms, strict=True):
            shown = rng.uniform() < 1.5 * difficulty
            size, yaw = rng.uniform(0.015, 0.040, 3), rng.uniform(0.0, np.pi)
            any_colour = _colour(rng, saturation=(0.4, 0.9), value=(0.3, 0.9))
            same, which = rng.uniform() < 0.7, int(rng.integers(len(colours)))
            candidates = rng.uniform(REGION[0], REGION[1], (8, 2))
            free = [spot for spot in candidates if all(np.hypot(*(spot - at)) > gap for at, gap in taken)]
            self._model.body_pos[body] = _AWAY
            if shown and free:
                half_height = size[1] if self._model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CYLINDER else size[2]
                self._model.body_pos[body] = (*free[0], half_height)
                taken.append((free[0], 0.08))
            self._model.body_quat[body] = yaw_quat(yaw)
            self._model.geom_size[geom] = size
            self._model.geom_rgba[geom, :3] = colours[which] if same else any_colour


def _colour(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Quaternion [4] of a camera at `eye` that looks at `target` (along its -z, +y up in the picture)."""
    back = eye - target
    right = np.cross([0.0, 0.0, 1.0], back)
    axes = np.stack([right, np.cross(back, right), back], axis=1)
    return Rotation.from_matrix(axes / np.linalg.norm(axes, axis=0)).as_quat(scalar_first=True)
