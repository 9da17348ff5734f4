"""A gamepad against SDL's virtual one: dead-man switch, deadzone, triggers, synergies, and the cable pulled out."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dexhil.robots.geometry import finger_tips
from dexhil.robots.poses import IDENTITY, rotation
from dexhil.robots.spec import FR3_DEXHAND021
from hardware.devices.base import DeviceError
from hardware.drivers.gamepad import (
    DEAD_MAN,
    TILT,
    GamepadArm,
    GamepadHand,
    GamepadOperator,
    PadState,
    moved,
    outside_deadzone,
)
from hardware.emulators.gamepad import VirtualGamepad
from tests.hardware.support import wait_for

pytest.importorskip("pygame")


@pytest.fixture(scope="module")
def virtual() -> Iterator[VirtualGamepad]:
    pad = VirtualGamepad()
    yield pad
    pad.close()


@pytest.fixture
def operator(virtual: VirtualGamepad) -> Iterator[GamepadOperator]:
    operator = GamepadOperator()
    operator.connect()
    yield operator
    for name in (DEAD_MAN, TILT, "a", "b", "x"):
        virtual.button(name, False)
    for axis in ("leftx", "lefty", "rightx", "righty"):
        virtual.axis(axis, 0.0)
    operator.stop()


def engaged(operator: GamepadOperator) -> bool:
    reading = operator.read()
    return reading is not None and reading.value.engage


def test_engaged_only_while_the_dead_man_switch_is_held(operator: GamepadOperator, virtual: VirtualGamepad) -> None:
    assert not engaged(operator)
    virtual.button(DEAD_MAN, True)
    wait_for(lambda: engaged(operator))
    virtual.button(DEAD_MAN, False)
    wait_for(lambda: not engaged(operator))


def test_the_cross_chooses_what_a_takeover_takes(operator: GamepadOperator, virtual: VirtualGamepad) -> None:
    def authority() -> str:
        reading = operator.read()
        return reading.value.authority if reading else ""

    for name, wanted in (("dpleft", "arm"), ("dpright", "hand"), ("dpdown", "both")):
        virtual.button(name, True)
        wait_for(lambda wanted=wanted: authority() == wanted)
        virtual.button(name, False)


def test_every_press_is_told_once_and_in_order(operator: GamepadOperator, virtual: VirtualGamepad) -> None:
    events: list[str] = []

    def collect() -> list[str]:
        reading = operator.read()
        events.extend(reading.value.events if reading else ())
        return events

    for count, name in enumerate(("a", "x", "b")):
        virtual.button(name, True)
        wait_for(lambda count=count: len(collect()) > count)
    assert events == ["success", "failure", "estop"]
    time.sleep(0.05)
    assert collect() == ["success", "failure", "estop"]


def test_an_unplugged_pad_engages_nothing_and_works_when_plugged_in_again(
    operator: GamepadOperator, virtual: VirtualGamepad
) -> None:
    arm = GamepadArm()
    arm.connect()
    virtual.button(DEAD_MAN, True)
    virtual.axis("leftx", 1.0)
    wait_for(lambda: engaged(operator))
    virtual.unplug()
    wait_for(lambda: not engaged(operator))
    for device in (operator, arm):
        reading = device.read()
        assert reading is not None
        assert not reading.valid
        wait_for(lambda device=device: "gamepad 0: " in device.health().message)
        assert "plug the pad in" in device.health().message
    virtual.plug()
    wait_for(lambda: operator.health().ok)
    assert not engaged(operator), "the switch has to be held on the new pad"
    virtual.button(DEAD_MAN, True)
    wait_for(lambda: engaged(operator))
    arm.stop()
    assert operator.health().ok, "the pad stays open for the others"


def test_no_pad_says_what_to_do() -> None:
    with pytest.raises(DeviceError, match=r"gamepad 7: not among the . pads that are plugged in; plug the pad in"):
        GamepadOperator(index=7).connect()


def test_the_deadzone_is_still_and_ends_without_a_step() -> None:
    assert not outside_deadzone(np.array([0.07, -0.07])).any()
    assert np.linalg.norm(outside_deadzone(np.array([0.0, 0.1001]))) < 1e-3
    np.testing.assert_allclose(outside_deadzone(np.array([-1.0, 0.0])), [-1, 0])
    assert np.linalg.norm(outside_deadzone(np.array([1.0, 1.0]))) == pytest.approx(1.0)


def state(held: set[str], left: tuple[float, float] = (0, 0), right: tuple[float, float] = (0, 0)) -> PadState:
    return PadState(np.array(left, float), np.array(right, float), 0.0, 0.0, frozenset(held))


@pytest.mark.parametrize(
    ("pad", "step", "turn"),
    [
        (state(set(), (1, 1), (1, 1)), [0, 0, 0], [0, 0, 0]),
        (state({DEAD_MAN}, (0, -1)), [0.1, 0, 0], [0, 0, 0]),
        (state({DEAD_MAN}, (-1, 0)), [0, 0.1, 0], [0, 0, 0]),
        (state({DEAD_MAN}, right=(0, -1)), [0, 0, 0.1], [0, 0, 0]),
        (state({DEAD_MAN}, right=(-1, 0)), [0, 0, 0], [0, 0, 0.3]),
        (state({DEAD_MAN, TILT}, (1, 0)), [0, 0, 0], [0.3, 0, 0]),
        (state({DEAD_MAN, TILT}, (0, -1)), [0, 0, 0], [0, 0.3, 0]),
    ],
)
def test_sticks_push_and_turn_along_the_fixed_axes(pad: PadState, step: list[float], turn: list[float]) -> None:
    begin = np.array([0.4, 0.1, 0.2, *Rotation.from_euler("xyz", [0.3, 1.0, -2.0]).as_quat(scalar_first=True)])
    after = moved(begin, pad, 0.5, speed=0.2, turn_speed=0.6)
    np.testing.assert_allclose(after[:3] - begin[:3], step, atol=1e-12)
    np.testing.assert_allclose((rotation(after) * rotation(begin).inv()).as_rotvec(), turn, atol=1e-12)


def test_the_arm_moves_with_the_stick_from_its_anchor_and_stops_without_the_switch(
    operator: GamepadOperator, virtual: VirtualGamepad
) -> None:
    arm = GamepadArm(speed=0.5)
    arm.connect()
    arm.anchor(IDENTITY)

    def x() -> float:
        reading = arm.read()
        assert reading is not None
        return float(reading.value[0])

    virtual.axis("lefty", -1.0)
    time.sleep(0.05)
    assert x() == 0.0
    virtual.button(DEAD_MAN, True)
    wait_for(lambda: x() > 0.02)
    virtual.button(DEAD_MAN, False)
    wait_for(lambda: not engaged(operator))
    stopped = x()
    assert x() == stopped
    arm.stop()


def test_triggers_close_the_hand_and_pinch(operator: GamepadOperator, virtual: VirtualGamepad) -> None:
    hand = GamepadHand()
    hand.connect()

    def tips() -> np.ndarray:
        reading = hand.read()
        assert reading is not None
        return finger_tips(reading.value)

    open_hand = tips()
    virtual.axis("lefttrigger", 1.0)
    wait_for(lambda: np.linalg.norm(tips()[0] - tips()[1]) < 0.015)
    np.testing.assert_allclose(tips()[2:], open_hand[2:], atol=1e-6)
    virtual.axis("righttrigger", 1.0)
    wait_for(lambda: (tips()[1:, 2] < open_hand[1:, 2] - 0.08).all())
    reading = hand.read()
    assert reading is not None
    assert (reading.value >= FR3_DEXHAND021.lower[7:] - 1e-6).all()
    assert (reading.value <= FR3_DEXHAND021.upper[7:] + 1e-6).all()
    for trigger in ("lefttrigger", "righttrigger"):
        virtual.axis(trigger, -1.0)
    wait_for(lambda: np.allclose(tips(), open_hand))
    hand.stop()
