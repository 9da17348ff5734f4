"""The rig that a config's `rig` section describes."""

from __future__ import annotations

import dataclasses

from dexhil.config import ConfigError
from dexhil.names import check_known
from dexhil.rig import RigConfig
from dexhil.robots.spec import get_robot
from dexhil.sim.rig import SimRig

CAMERAS = ("scene", "wrist")  # of the simulated scene
MAX_IMAGE_SIZE = 2048  # pixels


def make_rig(settings: RigConfig, *, limited: bool = True) -> SimRig:
    """The simulated rig; worker processes can be handed its settings. Raises ConfigError or ValueError."""
    if get_robot(settings.robot) is not SimRig.spec:
        raise ConfigError(f"rig.robot {settings.robot!r}: the simulator has {SimRig.spec.name!r}")
    for key in ("tasks", "cameras"):
        names = getattr(settings, key)
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"rig.{key} {tuple(names)}: expected one name or more, each once")
    for camera in settings.cameras:
        check_known("rig.cameras:", camera, CAMERAS)
    if settings.image_size > MAX_IMAGE_SIZE:
        raise ConfigError(f"rig.image_size {settings.image_size}: expected at most {MAX_IMAGE_SIZE} pixels")
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    try:
        return SimRig(**{name: value for name, value in values.items() if name != "robot"}, limited=limited)
    except ValueError as error:
        raise ConfigError(f"rig.{error}") from None
