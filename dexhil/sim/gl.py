"""Headless OpenGL: chooses what MuJoCo renders with, and says what to install where nothing is there."""

import ctypes.util
import os
import sys

NO_GL_HELP = (
    "rendering needs headless OpenGL: expected EGL or OSMesa. Install one, on Debian or Ubuntu with"
    " `apt-get install libegl1 libgl1-mesa-dri` or `apt-get install libosmesa6`; MUJOCO_GL=egl or"
    " MUJOCO_GL=osmesa must be set, or dexhil.sim imported, before mujoco is"
)


class NoRenderingError(OSError):
    """There is no OpenGL to render with; the message says which packages bring it."""

    def __init__(self, cause: object) -> None:
        super().__init__(cause)  # the arguments alone, so that the error comes through from a worker process unchanged

    def __str__(self) -> str:
        return f"{NO_GL_HELP} (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r}: {self.args[0]})"


def choose_backend() -> None:
    """Sets MUJOCO_GL where nobody did: EGL, else OSMesa, else none (physics only). Software renders with one thread."""
    os.environ.setdefault("LP_NUM_THREADS", "1")
    if "MUJOCO_GL" in os.environ or not sys.platform.startswith("linux"):
        return
    backends = (("EGL", "egl"), ("OSMesa", "osmesa"))
    found = [backend for library, backend in backends if ctypes.util.find_library(library)]
    os.environ["MUJOCO_GL"] = found[0] if found else "disable"
