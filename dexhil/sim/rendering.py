"""Pictures of a MuJoCo scene at the size that is asked for, without shadows or multisampling."""

import glob
import sys

import mujoco
import numpy as np

from dexhil.sim.gl import NoRenderingError

_OFF = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_HAZE)


class CameraRenderer:
    """Renders the cameras of one model; keeps one OpenGL context per picture size."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._cameras = tuple(model.camera(i).name for i in range(model.ncam))

    def render(self, data: mujoco.MjData, camera: str, width: int, height: int) -> np.ndarray:
        """uint8 [height, width, 3]. Raises ValueError for an unknown camera, NoRenderingError without OpenGL."""
        if camera not in self._cameras:
            raise ValueError(f"camera {camera!r} is not in the scene; expected one of {list(self._cameras)}")
        renderer = self._renderers.get((width, height)) or self._new(width, height)
        renderer.update_scene(data, camera)
        return renderer.render()

    def close(self) -> None:
        """Frees the OpenGL contexts. May be called again."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _new(self, width: int, height: int) -> mujoco.Renderer:
        if not hasattr(mujoco, "GLContext"):
            raise NoRenderingError("MuJoCo was loaded without OpenGL")
        if "tensorflow" in sys.modules and not glob.glob("/dev/nvidia[0-9]*"):
            raise NoRenderingError("software OpenGL and TensorFlow crash in one process; render in one of its own")
        try:
            renderer = mujoco.Renderer(self._model, height, width)
        except (RuntimeError, ImportError, AttributeError, OSError, mujoco.FatalError) as error:
            raise NoRenderingError(error) from error
        for flag in _OFF:
            renderer.scene.flags[flag] = False
        self._renderers[width, height] = renderer
        return renderer
