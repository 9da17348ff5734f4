"""Drivers by name: a new one is a file in `hardware/drivers` and a line here. Imported only where a config names it."""

import importlib
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

from dexhil.config import ConfigError
from dexhil.names import check_known

DRIVERS: dict[str, str] = {  # name: "module:class"
    "fr3": "hardware.drivers.fr3:FR3",
    "dexhand021": "hardware.drivers.dexhand021:DexHand021",
    "leap": "hardware.drivers.leap:Leap",
    "inspire": "hardware.drivers.inspire:Inspire",
    "realsense": "hardware.drivers.realsense:RealSense",
    "opencv_camera": "hardware.drivers.opencv_camera:OpenCvCamera",
    "aruco_cube": "hardware.drivers.aruco_cube:ArucoCube",
    "geort_glove": "hardware.drivers.geort_glove:GeortGlove",
    "manus": "hardware.drivers.manus:ManusGlove",
    "gamepad": "hardware.drivers.gamepad:GamepadOperator",
    "gamepad_arm": "hardware.drivers.gamepad:GamepadArm",
    "gamepad_hand": "hardware.drivers.gamepad:GamepadHand",
    "keyboard": "hardware.drivers.keyboard:Keyboard",
    "scripted_gamepad": "hardware.emulators.scripted_gamepad:ScriptedGamepad",
}


POSITIVE = ("period_s", "silent_s", "connect_s", "clear_s", "fps", "width", "height", "baudrate", "max_velocity")


def make_device(settings: Mapping[str, Any], role: str) -> Any:
    """The device of a config section {"driver": name, setting: value, …}; `role` names it in messages.

    A setting that is such a section itself, as the camera of a cube, is a device too.

    Raises:
        ConfigError: the driver or a setting is unknown, or the driver's own package is missing.
    """
    values = dict(settings)
    name = values.pop("driver", "")
    _check_known(f"devices.{role}.driver:", name, DRIVERS)
    made = _load(DRIVERS[name], name, role)
    _check_settings(made, values, name, role)
    for setting, value in values.items():
        if isinstance(value, Mapping):
            values[setting] = make_device(value, f"{role}.{setting}") if "driver" in value else dict(value)
    try:
        return made(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"devices.{role}: driver {name!r}: {error}") from None


def _load(path: str, name: str, role: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"devices.{role}: driver {name!r} needs the package {error.name!r}, which is not installed; see "
            f"docs/guides/robot.md, or choose --rig sim"
        ) from None


def _check_known(what: str, name: str, known: Iterable[str]) -> None:
    try:
        check_known(what, name, known)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_settings(made: Any, values: Mapping[str, Any], name: str, role: str) -> None:
    known = set(inspect.signature(made).parameters)
    for setting, value in values.items():
        _check_known(f"devices.{role}: driver {name!r} takes no", setting, known)
        if setting in POSITIVE and not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise ConfigError(f"devices.{role}.{setting}: expected a number above 0, got {value!r}")
