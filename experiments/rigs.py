"""The rig that a config's `rig` section describes."""

from dexhil.config import ConfigError
from dexhil.names import check_known
from dexhil.rig import RigConfig
from dexhil.robots.spec import get_robot
from dexhil.sim.rig import SimRig

CAMERAS = ("scene", "wrist")  # of the simulated scene


def make_rig(settings: RigConfig, *, limited: bool = True) -> SimRig:
    """The simulated rig; worker processes can be handed its settings. Raises ConfigError or ValueError."""
    if get_robot(settings.robot) is not SimRig.spec:
        raise ConfigError(f"rig.robot {settings.robot!r}: the simulator has {SimRig.spec.name!r}")
    for camera in settings.cameras:
        check_known("rig.cameras:", camera, CAMERAS)
    try:
        values = {name: value for name, value in vars(settings).items() if name != "robot"}
        return SimRig(**values, limited=limited)
    except ValueError as error:
        raise ConfigError(f"rig.{error}") from None
