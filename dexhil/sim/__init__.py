"""The MuJoCo rig: robot, tasks, randomisation and the scripted operator. Only this package imports MuJoCo."""

from dexhil.sim.gl import NoRenderingError, choose_backend

choose_backend()  # MuJoCo reads its choice of OpenGL when it is first imported
try:
    import mujoco as _  # noqa: F401
except ModuleNotFoundError:
    raise
except (ImportError, AttributeError, OSError, RuntimeError) as error:
    raise NoRenderingError(error) from error
