"""The Inspire hand's driver against pymodbus' own RTU server on a serial line, with its and the hand's faults."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pytest

from hardware.devices.base import DeviceError
from hardware.drivers.inspire import NAMES, RANGES_RAD, Inspire
from tests.hardware.emulators.inspire import FakeInspire
from tests.hardware.support import emulator, in_background, wait_for

pytest.importorskip("pymodbus", reason="pymodbus is missing: make extras")

TARGET = np.linspace(0.2, 0.7, 6) * RANGES_RAD
STEP = max(RANGES_RAD) / 1000


@pytest.fixture
def fake() -> Iterator[FakeInspire]:
    fake = FakeInspire()
    with in_background(fake.serve):
        yield fake
    fake.close()


@pytest.fixture
def hand(fake: FakeInspire) -> Iterator[Inspire]:
    hand = Inspire(port=fake.port, clear_s=0.2, silent_s=1.0)
    hand.connect()
    yield hand
    hand.stop()


def measured(hand: Inspire) -> np.ndarray:
    reading = hand.read()
    assert reading is not None
    return reading.value


def go(hand: Inspire, target: np.ndarray) -> None:
    def near() -> bool:
        with contextlib.suppress(DeviceError):  # a busy machine answers late
            hand.command(target, time.monotonic(), 0)
        return bool(np.abs(measured(hand) - target).max() < 2 * STEP)

    wait_for(near)


def test_every_motor_closes_as_far_as_it_was_told(hand: Inspire, fake: FakeInspire) -> None:
    np.testing.assert_allclose(measured(hand), 0.0)
    go(hand, TARGET)
    assert fake.target == [800, 700, 600, 500, 400, 300]
    assert NAMES.index("thumb_rotation") == 5
    told = hand.command(TARGET + 1e-4, time.monotonic(), 0)
    np.testing.assert_allclose(told, TARGET, atol=STEP)
    assert hand.health().ok


def test_half_replies_are_left_out(hand: Inspire, fake: FakeInspire) -> None:
    go(hand, TARGET)
    for _ in range(3):
        fake.garble = 1
        wait_for(lambda: fake.garble == 0)
        assert np.abs(measured(hand) - TARGET).max() < 2 * STEP
    wait_for(lambda: hand.health().ok)
    go(hand, np.zeros(6))


def test_a_stalled_motor_is_named_and_cleared_at_a_limited_rate(hand: Inspire, fake: FakeInspire) -> None:
    fake.obstacle[3] = 900.0
    began = time.monotonic()

    def stalled() -> bool:
        hand.command(TARGET, time.monotonic(), 0)
        return "stall of index" in hand.health().message

    wait_for(stalled)
    wait_for(lambda: fake.clears >= 1)
    assert fake.clears <= (time.monotonic() - began) / 0.2 + 1
    fake.obstacle.clear()
    wait_for(lambda: hand.health().ok)
    go(hand, TARGET)


def test_a_mute_hand_is_invalid_and_works_again(hand: Inspire, fake: FakeInspire) -> None:
    fake.mute = True
    wait_for(lambda: not hand.health().ok)
    reading = hand.read()
    assert reading is not None
    assert not reading.valid
    with pytest.raises(DeviceError, match=r"hand: (silent|\d replies).*check the hand's power"):
        hand.command(TARGET, time.monotonic(), 0)
    fake.mute = False
    wait_for(lambda: hand.health().ok)


def test_no_hand_says_what_to_check(fake: FakeInspire) -> None:
    fake.mute = True
    with pytest.raises(DeviceError, match=r"hand: .*id 1 and 115200 baud"):
        Inspire(port=fake.port, connect_s=0.5).connect()
    with pytest.raises(DeviceError, match="hand: no serial port /dev/no-such-port"):
        Inspire(port="/dev/no-such-port").connect()


def test_a_hand_that_freezes_and_thaws() -> None:
    with emulator("tests.hardware.emulators.inspire") as fake:
        hand = Inspire(port=fake.said.strip(), connect_s=10.0)
        hand.connect()
        fake.freeze()
        wait_for(lambda: not hand.health().ok)
        fake.thaw()
        wait_for(lambda: hand.health().ok)
        go(hand, TARGET)
        hand.stop()
