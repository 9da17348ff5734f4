"""The rig that a config's `rig` section describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dexhil.config import ConfigError
from dexhil.names import check_known
from dexhil.robots.spec import get_robot
from dexhil.sim.rig import SimRig

CAMERAS = ("scene", "wrist")  # of the simulated scene
MAX_IMAGE_SIZE = 2048  # pixels


def make_rig(rig: Mapping[str, Any]) -> SimRig:
    """The simulated rig of a plain dict, which worker processes can be handed. Raises ConfigError or ValueError."""
    if get_robot(rig["robot"]) is not SimRig.spec:
        raise ConfigError(f"rig.robot {rig['robot']!r}: the simulator has {SimRig.spec.name!r}")
    for key in ("tasks", "cameras"):
        if not rig[key] or len(set(rig[key])) < len(rig[key]):
            raise ConfigError(f"rig.{key} {tuple(rig[key])}: expected one name or more, each once")
    for camera in rig["cameras"]:
        check_known("rig.cameras:", camera, CAMERAS)
    if rig["image_size"] > MAX_IMAGE_SIZE:
        raise ConfigError(f"rig.image_size {rig['image_size']}: expected at most {MAX_IMAGE_SIZE} pixels")
    return SimRig(
        rig["tasks"],
        difficulty=rig["difficulty"],
        surroundings=rig.get("surroundings"),
        image_size=rig["image_size"],
        cameras=rig["cameras"],
        control_hz=rig["control_hz"],
    )
