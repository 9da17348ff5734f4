"""What holds for every driver: it can be imported without its device's package, and is a device by its interface."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import numpy as np
import pytest

from hardware.devices.serial_hand import SerialHand
from hardware.devices.streams import ActuatorStream
from hardware.drivers.inspire import FULL, RANGES_RAD, Inspire
from hardware.drivers.leap import TICK, Leap
from tests.hardware.support import ROOT

DRIVERS = sorted(path.stem for path in (ROOT / "hardware" / "drivers").glob("*.py") if path.stem != "__init__")
PACKAGES = ("can", "dynamixel_sdk", "pymodbus", "franky", "pygame", "pyrealsense2", "zmq", "cv2", "jax", "mujoco")


def test_no_driver_needs_a_package_before_it_is_opened() -> None:
    code = f"""
import importlib, sys
for name in {DRIVERS!r}:
    importlib.import_module("hardware.drivers." + name)
    loaded = [package for package in {PACKAGES!r} if package in sys.modules]
    assert not loaded, f"{{name}} loads {{loaded}}"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_class_of_a_driver_that_connects_is_a_whole_device(driver: str) -> None:
    module = importlib.import_module(f"hardware.drivers.{driver}")
    found = [
        one
        for name, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__ and hasattr(one, "connect") and not name.startswith("_")
    ]
    assert found
    for one in found:
        assert not inspect.isabstract(one)
        for method in ("connect", "read", "health", "stop"):
            assert callable(getattr(one, method)), f"{one.__name__}.{method}"
        assert not issubclass(one, ActuatorStream) or callable(one.command)


@pytest.mark.parametrize(
    ("hand", "steps"), [(Leap(port="none"), np.full(16, TICK)), (Inspire(port="none"), np.array(RANGES_RAD) / FULL)]
)
def test_what_a_hand_was_told_is_what_its_protocol_can_say(hand: SerialHand, steps: np.ndarray) -> None:
    asked = np.random.default_rng(0).uniform(hand.lower, hand.upper)
    told = hand._send(asked, 0.0)
    np.testing.assert_allclose(told / steps, np.rint(told / steps), atol=1e-9)
    assert 0.0 < np.abs(told - asked).max() <= 0.5001 * steps.max()
