"""What every driver is made of, on a clock that the test moves: the gate of commands, and when a reading is trusted."""

from types import SimpleNamespace

import numpy as np
import pytest

from hardware.devices import streams
from hardware.devices.base import DeviceError
from hardware.devices.streams import LARGEST_GAP_S, ActuatorStream, Sample


class Hinge(ActuatorStream[np.ndarray]):
    """Two joints from -1 to 1 rad, 2 rad/s at most, that stand at `value`. sent: what the device was told."""

    def __init__(self, clock: SimpleNamespace) -> None:
        limit = np.ones(2)
        super().__init__(
            "hinge", 0.01, ("first", "second"), -limit, limit, 2.0 * limit, silent_s=0.5, connect_s=1.0,
            remedy="turn it on",
        )  # fmt: skip
        self.clock, self.sent, self._failure = clock, [], ""
        self.says(np.zeros(2))

    def says(self, value: np.ndarray | None, fault: str = "") -> None:
        self._take(Sample(value, self.clock.now, fault))

    def _open(self) -> None: ...

    def _poll(self) -> None: ...

    def _close(self) -> None: ...

    def _joints(self, value: np.ndarray) -> np.ndarray:
        return value

    def _send(self, target: np.ndarray, t_execute: float) -> np.ndarray:
        self.sent.append(target)
        return target

    def told(self, first: float, epoch: int = 0, after_s: float = 0.01) -> float:
        """What the first joint is told when `first` is asked for, `after_s` later, while the device speaks."""
        self.clock.now += after_s
        self.says(np.zeros(2))
        return float(self.command(np.array([first, 0.0]), self.clock.now, epoch)[0])


@pytest.fixture
def hinge(monkeypatch: pytest.MonkeyPatch) -> Hinge:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(streams, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return Hinge(clock)


def test_commands_keep_to_velocity_and_position(hinge: Hinge) -> None:
    assert hinge.told(1.0) == pytest.approx(0.02)
    assert hinge.told(1.0) == pytest.approx(0.04)
    for _ in range(100):
        assert hinge.told(5.0) <= 1.0
    assert hinge.told(5.0) == 1.0


def test_a_command_after_a_pause_is_no_jump(hinge: Hinge) -> None:
    hinge.told(0.0)
    assert hinge.told(1.0, after_s=0.4) == pytest.approx(2.0 * LARGEST_GAP_S)


def test_a_command_of_an_earlier_epoch_is_dropped(hinge: Hinge) -> None:
    at = hinge.told(1.0, epoch=2)
    assert hinge.told(-1.0, epoch=1) == at
    assert len(hinge.sent) == 1
    assert hinge.told(-1.0, epoch=2) < at


def test_after_silence_commands_start_from_where_the_joints_are(hinge: Hinge) -> None:
    for _ in range(30):
        hinge.told(1.0)
    hinge.clock.now += 1.0
    with pytest.raises(DeviceError, match=r"hinge: silent for 1\.00 s; turn it on"):
        hinge.command(np.zeros(2), hinge.clock.now, 0)
    assert hinge.told(1.0, after_s=0.0) == pytest.approx(0.02)


def test_a_reading_is_trusted_while_the_device_speaks_and_finds_nothing_wrong(hinge: Hinge) -> None:
    hinge.says(np.array([0.3, 0.0]))
    reading = hinge.read()
    assert reading is not None
    assert reading.valid
    hinge.says(np.array([0.9, 0.0]), "a cable is loose")
    reading = hinge.read()
    assert reading is not None
    assert not reading.valid
    assert not hinge._latest.valid  # pyright: ignore
    assert reading.value[0] == 0.3  # the last good one
    assert hinge.health().message == "hinge: a cable is loose; turn it on"
    with pytest.raises(DeviceError, match="a cable is loose"):
        hinge.command(np.zeros(2), hinge.clock.now, 0)
    hinge.says(np.array([0.4, 0.0]))
    assert hinge.health().ok
    hinge.clock.now += 0.6
    reading = hinge.read()
    assert reading is not None
    assert not reading.valid
    assert not hinge.health().ok


@pytest.mark.parametrize(
    ("target", "message"),
    [(np.zeros(3), r"expected a target \[2\] rad, got \[3\]"), (np.array([0.0, np.nan]), "target of second is nan")],
)
def test_a_target_that_is_none_is_refused(hinge: Hinge, target: np.ndarray, message: str) -> None:
    with pytest.raises(DeviceError, match=rf"hinge: {message}.*; it holds"):
        hinge.command(target, hinge.clock.now, 0)
    assert not hinge.sent
