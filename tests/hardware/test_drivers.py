"""What holds for every driver: it can be imported without its device's package, and is a device by its interface."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

from dexhil.retargeting.synthetic import FIST, OPEN, keypoints_of
from hardware.devices.serial_hand import SerialHand
from hardware.devices.streams import ActuatorStream
from hardware.drivers.fr3 import FORCE_N, FR3, TORQUE_NM
from hardware.drivers.geort_glove import GeortGlove
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


def test_registers_that_no_finger_can_have_are_a_broken_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    hand, registers = Inspire(port="none"), [0, 100, 200, 300, 400, 1000]
    monkeypatch.setattr(hand, "_numbers", lambda *_: registers)
    assert hand._read() is not None
    registers[2] = 65535
    assert hand._read() is None


def test_the_arms_setpoint_takes_the_time_that_its_velocity_limits_need() -> None:
    arm = FR3(host="none")
    target = np.array([0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0])
    arm._send(target, time.monotonic() + 0.01)
    begin, end, t_begin, t_end = arm._line
    np.testing.assert_array_equal(end - begin, target)
    assert t_end - t_begin == pytest.approx(float((np.abs(target) / arm.max_velocity).max()))
    arm._send(target, time.monotonic() + 5.0)
    assert arm._line[3] - arm._line[2] == pytest.approx(5.0, abs=0.5)


def test_the_arm_is_opened_with_its_collision_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    robot = MagicMock(has_errors=False, current_joint_positions=[0.0] * 7)
    franky = SimpleNamespace(
        Robot=lambda *_, **__: robot, RealtimeConfig=MagicMock(), JointImpedanceTracker=lambda *_, **__: MagicMock()
    )
    monkeypatch.setitem(sys.modules, "franky", franky)
    FR3(host="none", realtime=False)._open()
    robot.set_collision_behavior.assert_called_once_with(list(TORQUE_NM), list(FORCE_N))


def test_of_messages_that_waited_the_newest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    glove, waited = GeortGlove(), [keypoints_of(shape).astype(np.float32) for shape in (FIST, OPEN)]
    monkeypatch.setattr(glove, "_socket", SimpleNamespace(poll=lambda _: True))
    monkeypatch.setattr(glove, "_waiting", lambda: [points.tobytes() for points in waited])
    sample = glove._poll()
    assert sample is not None
    np.testing.assert_array_equal(sample.value, waited[-1])
