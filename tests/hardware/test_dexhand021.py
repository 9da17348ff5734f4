"""The DexHand021's driver against a hand that speaks its CAN-FD protocol, with the faults of a real one."""

from __future__ import annotations

import logging
import sys
import time
import types
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from dexhil.robots.spec import FR3_DEXHAND021
from hardware.devices.base import DeviceError
from hardware.drivers import dexhand021 as driver
from hardware.drivers.dexhand021 import DexHand021
from hardware.emulators.dexhand021 import serve
from tests.hardware.emulators.dexhand021 import FaultyHand
from tests.hardware.support import emulator, in_background, wait_for

can = pytest.importorskip("can", reason="python-can is missing: make extras")

LOWER, UPPER = FR3_DEXHAND021.lower[7:].astype(float), FR3_DEXHAND021.upper[7:].astype(float)
TARGET = LOWER + np.linspace(0.1, 0.9, 12) * (UPPER - LOWER)


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> Iterator[FaultyHand]:
    with can.Bus(interface="virtual", channel=request.node.name, fd=True) as bus:
        hand = FaultyHand(bus)
        with in_background(lambda stopped: serve(hand, stopped)):
            yield hand


@pytest.fixture
def hand(request: pytest.FixtureRequest, fake: FaultyHand) -> Iterator[DexHand021]:
    hand = DexHand021(bus={"interface": "virtual", "channel": request.node.name}, clear_s=0.2)
    hand.connect()
    yield hand
    hand.stop()


def measured(hand: DexHand021) -> np.ndarray:
    reading = hand.read()
    assert reading is not None
    return reading.value


def go(hand: DexHand021, target: np.ndarray) -> np.ndarray:
    """Commands `target` until the driver's velocity limit lets it through."""
    wait_for(lambda: np.abs(hand.command(target, time.monotonic(), 0) - target).max() < 1e-3)
    return hand.command(target, time.monotonic(), 0)


def test_every_motor_of_the_hand_goes_where_its_actuator_was_told(hand: DexHand021, fake: FaultyHand) -> None:
    told = go(hand, TARGET)
    np.testing.assert_allclose(told, TARGET, atol=driver.CENTIDEGREE)
    wait_for(lambda: np.abs(measured(hand) - TARGET).max() < 2 * driver.CENTIDEGREE)
    degrees = dict(zip(FR3_DEXHAND021.joint_names[7:], np.degrees(TARGET), strict=True))
    assert fake.angle[1] == pytest.approx([degrees["thumb_rotation"], degrees["spread"]], abs=0.01)
    assert fake.angle[0] == pytest.approx([degrees["thumb_dip"], degrees["thumb_mcp"]], abs=0.01)
    assert fake.angle[5] == pytest.approx([degrees["little_pip"], degrees["little_mcp"]], abs=0.01)
    assert hand.health().ok
    reading = hand.read()
    assert reading is not None
    assert reading.valid
    assert reading.t_device <= reading.t_received <= time.monotonic()


def test_frames_are_the_published_bytes() -> None:
    assert driver.command_frame(np.radians([12.34, -1.0])) == bytes.fromhex("4403d2049cff")
    assert driver.feedback_frame_period(0.01) == bytes.fromhex("0374010101")
    payload = bytes(12) + bytes.fromhex("d2049cff")
    assert driver.angles_of_feedback(payload) == pytest.approx(np.radians([12.34, -1.0]))
    assert driver.angles_of_feedback(payload[:15]) is None
    assert driver.errors_of(bytes.fromhex("ee0144"), 2) == "stall of index_pip, stall of index_mcp"
    assert driver.errors_of(bytes.fromhex("ee01"), 2) == ""


def test_what_the_driver_says_it_told_is_within_position_and_velocity_limits(
    hand: DexHand021, fake: FaultyHand
) -> None:
    before = measured(hand)
    told = hand.command(np.full(12, 9.0), time.monotonic(), 0)
    assert (told - before <= 4.0 * 0.1 + 1e-3).all()
    told = go(hand, np.clip(np.full(12, 9.0), LOWER, UPPER))
    assert (told <= UPPER + driver.CENTIDEGREE).all()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (np.full(11, 0.1), r"hand: expected a target \[12\] rad, got \[11\]"),
        (np.array([0.1, np.nan, *[0.1] * 10]), "hand: target of thumb_mcp is nan; expected finite rad; it holds"),
    ],
)
def test_a_bad_target_is_named_and_what_was_told_holds(
    hand: DexHand021, fake: FaultyHand, target: np.ndarray, message: str
) -> None:
    sent = fake.commands
    with pytest.raises(DeviceError, match=message):
        hand.command(target, time.monotonic(), 0)
    assert fake.commands == sent


def test_a_target_of_an_earlier_epoch_is_dropped(hand: DexHand021) -> None:
    told = hand.command(TARGET, time.monotonic(), 3)
    np.testing.assert_array_equal(hand.command(np.zeros(12), time.monotonic(), 2), told)


def test_a_stall_latches_is_said_and_cleared_no_faster_than_allowed(
    hand: DexHand021, fake: FaultyHand, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    fake.obstacle[2, 1] = 10.0
    began = time.monotonic()
    go(hand, TARGET)
    wait_for(lambda: "stall of index_mcp" in hand.health().message)
    wait_for(lambda: fake.clears >= 2)
    assert fake.clears <= (time.monotonic() - began) / 0.2 + 1
    reading = hand.read()
    assert reading is not None
    assert reading.valid, "the joints are still measured"
    fake.obstacle.clear()
    wait_for(lambda: hand.health().ok and np.abs(measured(hand) - TARGET).max() < 0.01)
    assert "hand: clearing: stall of index_mcp" in caplog.text


def test_noise_and_half_frames_move_nothing(hand: DexHand021, fake: FaultyHand) -> None:
    go(hand, TARGET)
    wait_for(lambda: np.abs(measured(hand) - TARGET).max() < 0.01)
    noise = np.random.default_rng(0)
    for _ in range(100):
        fake.send(0x180 + 0x07 + int(noise.integers(6)), noise.bytes(int(noise.integers(16))))
        fake.send(0x180 + 0x07 + int(noise.integers(6)), bytes(12) + b"\xff\x7f\x00\x80")
        fake.send(int(noise.choice([0x607, 0x87, 0x7FF, 0x181])), noise.bytes(int(noise.choice([1, 2, 7, 16]))))
        assert np.abs(measured(hand) - TARGET).max() < 0.01
    wait_for(lambda: hand._broken > 0)
    reading = hand.read()
    assert reading is not None
    assert reading.valid


def test_a_board_that_falls_silent_is_named_and_heard_again(hand: DexHand021, fake: FaultyHand) -> None:
    fake.mute = {3}
    wait_for(lambda: "no report from the boards of middle_pip/middle_mcp" in hand.health().message)
    reading = hand.read()
    assert reading is not None
    assert not reading.valid
    assert np.isfinite(reading.value).all()
    fake.mute = set()
    wait_for(lambda: hand.health().ok)


def test_no_hand_on_the_bus_says_what_to_check(request: pytest.FixtureRequest) -> None:
    hand = DexHand021(bus={"interface": "virtual", "channel": request.node.name}, connect_s=0.2)
    with pytest.raises(DeviceError, match=r"hand: .*check the hand's power, the CAN-FD cable.*side \(right\)"):
        hand.connect()
    assert hand.read() is None
    hand.stop()
    with pytest.raises(DeviceError, match="hand: not connected"):
        hand.command(TARGET, 0.0, 0)
    with pytest.raises(ValueError, match="side 'rigth' is not known; did you mean 'right'"):
        DexHand021(bus={}, side="rigth")


def test_a_hand_that_freezes_or_dies_is_said_and_works_again_afterwards() -> None:
    bus = {"interface": "udp_multicast", "channel": "239.0.0.21", "port": 43121}
    arguments = ("--port", str(bus["port"]))
    hand = DexHand021(bus=bus, silent_s=0.3)
    with ExitStack() as stack:
        stack.callback(hand.stop)
        fake = stack.enter_context(emulator("hardware.emulators.dexhand021", *arguments))
        hand.connect()
        go(hand, TARGET)
        fake.freeze()
        wait_for(lambda: "hand: silent for" in hand.health().message)
        with pytest.raises(DeviceError, match=r"hand: silent for .* check the hand's power"):
            hand.command(TARGET, time.monotonic(), 0)
        fake.thaw()
        wait_for(lambda: hand.health().ok)
        go(hand, TARGET)
        fake.kill()
        wait_for(lambda: not hand.health().ok)
        stack.enter_context(emulator("hardware.emulators.dexhand021", *arguments))
        wait_for(lambda: hand.health().ok)
        told = hand.command(TARGET, time.monotonic(), 0)
        assert (told <= 4.0 * 0.1 + 1e-3).all(), (
            "a hand that was off starts from where it is, not from the last command"
        )
        go(hand, TARGET)


class VendorAdapter:
    """The vendor's ZCANWrapper by its interface, on a virtual bus instead of its USB adapter."""

    def open(self, device_type: object = None, device_index: int | None = None) -> bool:
        return device_index == 0

    def configure_channel(self, channel: int) -> bool:
        self.bus = can.Bus(interface="virtual", channel=f"zlg{channel}", fd=True)
        return True

    def send_fd_message(self, channel: int, id: int, data: bytes) -> bool:
        self.bus.send(can.Message(arbitration_id=id, data=data, is_fd=True, is_extended_id=False))
        return True

    def receive_fd_messages(self, channel: int, max_messages: int, timeout_ms: int) -> list[tuple[int, bytes, int]]:
        message = self.bus.recv(timeout_ms / 1e3)
        return [] if message is None else [(message.arbitration_id, bytes(message.data), 0)]

    def close(self) -> bool:
        self.bus.shutdown()
        return True


def test_the_vendors_usb_adapter_carries_the_same_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    hand = DexHand021(bus={"interface": "zlg", "channel": 3})
    with pytest.raises(DeviceError, match=r"needs the vendor's SDK; see third_party/dexhand021\.md"):
        hand.connect()
    module = types.ModuleType("pyzlg_dexhand.zcan_wrapper")
    monkeypatch.setattr(module, "ZCANWrapper", VendorAdapter, raising=False)
    monkeypatch.setitem(sys.modules, "pyzlg_dexhand", types.ModuleType("pyzlg_dexhand"))
    monkeypatch.setitem(sys.modules, "pyzlg_dexhand.zcan_wrapper", module)
    with can.Bus(interface="virtual", channel="zlg3", fd=True) as bus:
        fake = FaultyHand(bus)
        with in_background(lambda stopped: serve(fake, stopped)):
            hand.connect()
            go(hand, TARGET)
            hand.stop()
    with pytest.raises(DeviceError, match="no ZLG adapter with index 1"):
        DexHand021(bus={"interface": "zlg", "device_index": 1}).connect()
