"""The LEAP hand's driver against servos that speak Dynamixel protocol 2.0 on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pytest

from hardware.devices.base import DeviceError
from hardware.drivers import leap
from hardware.drivers.leap import Leap
from tests.hardware.emulators.leap import FakeServos, crc, packet
from tests.hardware.support import emulator, in_background, wait_for

pytest.importorskip("dynamixel_sdk", reason="dynamixel-sdk is missing: make extras")

TARGET = leap.LOWER + np.linspace(0.2, 0.8, 16) * (leap.UPPER - leap.LOWER)


@pytest.fixture
def servos() -> Iterator[FakeServos]:
    servos = FakeServos()
    with in_background(servos.serve):
        yield servos
    servos.close()


@pytest.fixture
def hand(servos: FakeServos) -> Iterator[Leap]:
    hand = Leap(port=servos.port, clear_s=0.2, silent_s=1.0)
    hand.connect()
    yield hand
    hand.stop()


def measured(hand: Leap) -> np.ndarray:
    reading = hand.read()
    assert reading is not None
    return reading.value


def go(hand: Leap, target: np.ndarray) -> None:
    def near() -> bool:
        with contextlib.suppress(DeviceError):  # a busy machine answers late
            hand.command(target, time.monotonic(), 0)
        return bool(np.abs(measured(hand) - target).max() < 2 * leap.TICK)

    wait_for(near)


def test_packets_are_the_published_bytes() -> None:
    # ROBOTIS' e-manual, protocol 2.0: ping of id 1, and read of the present position of id 1.
    assert packet(1, 0x01, b"") == bytes.fromhex("fffffd00010300011" + "94e")
    assert packet(1, 0x02, bytes.fromhex("84000400")) == bytes.fromhex("fffffd000107000284000400" + "1d15")
    assert crc(b"") == b"\x00\x00"


def test_every_servo_goes_where_its_joint_was_told(hand: Leap, servos: FakeServos) -> None:
    go(hand, TARGET)
    for servo, angle in enumerate(TARGET):
        assert servos.number(servo, 132, 4) == pytest.approx(2048 + angle * 4096 / (2 * np.pi), abs=2)
        assert servos.number(servo, 11, 1) == 5
        assert servos.number(servo, 102, 2) == 350
    assert hand.health().ok


def test_the_hand_holds_where_it_was_when_it_is_connected(servos: FakeServos) -> None:
    servos.memory[5][132:136] = (2500).to_bytes(4, "little")
    hand = Leap(port=servos.port)
    hand.connect()
    assert servos.number(5, 116, 4) == 2500
    assert measured(hand)[5] == pytest.approx(452 * leap.TICK)
    hand.stop()
    wait_for(lambda: not any(servos.memory[servo][64] for servo in range(16)))


def test_half_replies_are_left_out(hand: Leap, servos: FakeServos) -> None:
    go(hand, TARGET)
    for _ in range(5):
        servos.garble = 2
        wait_for(lambda: servos.garble == 0)
        assert np.abs(measured(hand) - TARGET).max() < 2 * leap.TICK
    wait_for(lambda: hand.health().ok)
    go(hand, np.zeros(16))


def test_a_servo_that_falls_silent_makes_the_reading_invalid_until_it_answers(hand: Leap, servos: FakeServos) -> None:
    servos.dead = {9}
    wait_for(lambda: not hand.health().ok)
    reading = hand.read()
    assert reading is not None
    assert not reading.valid
    servos.dead = set()
    wait_for(lambda: hand.health().ok)


def test_an_overloaded_servo_is_named_rebooted_and_holds_again(hand: Leap, servos: FakeServos) -> None:
    servos.memory[6][70] = 1 << 5
    wait_for(lambda: "overload of middle_pip" in hand.health().message)
    wait_for(lambda: servos.reboots == 1 and hand.health().ok)
    assert servos.memory[6][64] == 1
    go(hand, TARGET)


def test_a_missing_servo_is_named_when_connecting(servos: FakeServos) -> None:
    servos.dead = {9}
    with pytest.raises(
        DeviceError, match=r"hand: servo 9 \(ring_mcp\) does not answer: .*ids 0 to 15 and 4000000 baud"
    ):
        Leap(port=servos.port).connect()
    with pytest.raises(DeviceError, match=r"hand: SerialException: .*no-such-port.*check the hand's power"):
        Leap(port="/dev/no-such-port").connect()


def test_a_hand_that_freezes_and_thaws() -> None:
    with emulator("tests.hardware.emulators.leap") as fake:
        hand = Leap(port=fake.said.strip())
        hand.connect()
        fake.freeze()
        wait_for(lambda: not hand.health().ok)
        with pytest.raises(DeviceError, match="hand: "):
            hand.command(TARGET, time.monotonic(), 0)
        fake.thaw()
        wait_for(lambda: hand.health().ok)
        go(hand, TARGET)
        fake.kill()
        wait_for(lambda: not hand.health().ok)
        hand.stop()
