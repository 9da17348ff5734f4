"""The FR3's driver against a robot that speaks libfranka's protocol: motion, limits, reflex, freezing, dying."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest

from dexhil.robots import arm_ik
from dexhil.robots.spec import FR3_DEXHAND021
from hardware.devices.base import ArmState, DeviceError
from hardware.drivers.fr3 import FR3, setpoint
from tests.hardware.support import Emulator, emulator, wait_for

pytest.importorskip("franky", reason="franky-control is missing: make extras")
pytest.importorskip("franky_sim", reason="franky-sim is missing: make extras")

HOME = FR3_DEXHAND021.home[:7].astype(float)


@pytest.fixture(scope="module")
def robot() -> Iterator[Emulator]:
    # An address of its own: the first free one is taken by another test's robot as soon as this one is killed.
    with emulator("tests.hardware.emulators.fr3", f"--host=127.3.0.{1 + os.getpid() % 250}") as robot:
        yield robot


@pytest.fixture(scope="module")
def shared(robot: Emulator) -> Iterator[FR3]:
    arm = FR3(host=robot.said.strip(), realtime=False)
    yield arm
    arm.stop()


@pytest.fixture
def arm(shared: FR3) -> FR3:
    """Connected, as after every failure."""
    shared.connect()
    return shared


def state(arm: FR3) -> ArmState:
    reading = arm.read()
    assert reading is not None
    return reading.value


def is_valid(arm: FR3) -> bool:
    reading = arm.read()
    return reading is not None and reading.valid


def test_the_arm_goes_where_it_is_told_no_faster_than_its_limits(arm: FR3) -> None:
    target = HOME + 0.15
    fastest = [0.0]

    def near() -> bool:
        arm.command(target, time.monotonic() + 1 / 30, 0)
        fastest[0] = max(fastest[0], float((np.abs(state(arm).dq) / arm.max_velocity).max()))
        return bool(np.abs(state(arm).q - target).max() < 0.05)

    wait_for(near)
    assert fastest[0] < 1.0
    np.testing.assert_allclose(state(arm).pose_base_ee, arm_ik.forward(state(arm).q))
    assert arm.health().ok


def test_a_step_is_limited_and_what_was_told_is_returned(arm: FR3) -> None:
    told = arm.command(state(arm).q, time.monotonic(), 0)
    step = arm.command(told + 1.0, time.monotonic(), 0) - told
    assert (step <= arm.max_velocity * 0.1 + 1e-9).all()
    assert (step > 0).all()
    with pytest.raises(DeviceError, match="arm: target of fr3_joint4 is nan; expected finite rad; it holds"):
        arm.command(np.where(np.arange(7) == 3, np.nan, told), time.monotonic(), 0)


def test_the_setpoint_moves_in_a_straight_line_and_then_rests() -> None:
    begin, end = np.zeros(7), np.full(7, 0.1)
    at, velocity = setpoint(begin, end, 10.0, 10.1, 10.05)
    np.testing.assert_allclose(at, 0.05)
    np.testing.assert_allclose(velocity, 1.0)
    for at, velocity in (setpoint(begin, end, 10.0, 10.1, 11.0), setpoint(end, end, 0.0, 0.0, 1.0)):
        np.testing.assert_allclose(at, end)
        assert not velocity.any()


def test_a_reflex_ends_control_is_named_and_connect_recovers(arm: FR3, robot: Emulator) -> None:
    os.kill(robot.process.pid, signal.SIGUSR1)
    wait_for(lambda: "joint_reflex" in arm.health().message)
    assert not is_valid(arm)
    with pytest.raises(DeviceError, match=r"aborted by reflex!.*see the robot's Desk at"):
        arm.command(HOME, time.monotonic(), 0)
    arm.connect()
    assert arm.health().ok
    told = arm.command(HOME, time.monotonic(), 0)
    assert np.abs(told - state(arm).q).max() < 0.3, "it goes on from where it is"


def test_a_frozen_robot_is_said_and_connect_recovers(arm: FR3, robot: Emulator) -> None:
    robot.freeze()
    wait_for(lambda: "arm: silent for" in arm.health().message)
    assert not is_valid(arm)
    with pytest.raises(DeviceError, match="arm: "):
        arm.command(HOME, time.monotonic(), 0)
    wait_for(lambda: "NetworkException" in arm.health().message)
    robot.thaw()
    arm.connect()
    assert arm.health().ok


def test_a_killed_robot_is_said_and_cannot_be_connected_to(arm: FR3, robot: Emulator) -> None:
    robot.kill()
    wait_for(lambda: not arm.health().ok)
    assert not is_valid(arm)
    with pytest.raises(DeviceError, match=r"arm: NetworkException: .*see the robot's Desk"):
        arm.connect()
    arm.stop()
    arm.stop()
