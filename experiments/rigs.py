"""The rig that a config's `rig` section describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dexhil.config import ConfigError
from dexhil.robots.spec import get_robot
from dexhil.sim.rig import SimRig


def make_rig(rig: Mapping[str, Any]) -> SimRig:
    """The simulated rig of a plain dict, which worker processes can be handed. Raises ConfigError or ValueError."""
    if get_robot(rig["robot"]) is not SimRig.spec:
        raise ConfigError(f"rig.robot {rig['robot']!r}: the simulator has {SimRig.spec.name!r}")
    return SimRig(
        rig["tasks"],
        difficulty=rig["difficulty"],
        surroundings=rig.get("surroundings"),
        image_size=rig["image_size"],
        cameras=rig["cameras"],
        control_hz=rig["control_hz"],
    )
