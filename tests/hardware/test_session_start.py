"""What a session starts, it stops in reverse order when something does not start."""

import functools
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from hardware.devices.base import DeviceError
from hardware.runtime.policy_process import PolicyProcess, Report
from hardware.runtime.recording import Recorder
from hardware.runtime.session import Session
from hardware.runtime.upkeep import FRUITLESS_STARTS, Upkeep
from tests.hardware.fakes import StillPolicy, live_control


class Noted:
    """A recorder that notes into `log` when it starts and stops."""

    root, fault = None, ""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def start(self) -> None:
        self.log.append("start recorder")

    def stop(self) -> None:
        self.log.append("stop recorder")


@pytest.mark.parametrize("broken", range(6))
@pytest.mark.parametrize("error", [DeviceError("not plugged in"), KeyboardInterrupt()])
def test_what_was_opened_is_closed_in_reverse_order_where_a_device_does_not_open(
    broken: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    session = Session(live_control(None).control, None, Noted(log))  # pyright: ignore[reportArgumentType]
    for index, device in enumerate(session.devices()):

        def connect(index: int = index) -> None:
            if index == broken:
                raise error
            log.append(f"start {index}")

        monkeypatch.setattr(device, "connect", connect)
        monkeypatch.setattr(device, "stop", lambda index=index: log.append(f"stop {index}"))
    with pytest.raises(type(error)), session:
        pass
    begun = ["recorder", *map(str, range(broken))]
    assert log == [*(f"start {part}" for part in begun), f"stop {broken}", *(f"stop {part}" for part in begun[::-1])]


def test_a_policy_that_does_not_load_leaves_nothing_running(tmp_path: Path) -> None:
    """Helpers ignore polite signals: one that is left keeps the command from ending."""
    live, recorder = live_control(None), Recorder(tmp_path, control_hz=20.0)
    policy = PolicyProcess(functools.partial(StillPolicy, "too", "many", "values"), hz=20.0, image_bytes=1 << 10)  # pyright: ignore
    with (
        pytest.raises(OSError, match=r"policy: StillPolicy\.__init__\(\) takes"),
        Session(live.control, policy, recorder),
    ):
        pass
    assert not any(child.name in ("policy", "recorder") for child in multiprocessing.active_children())
    assert not live.arm.alive
    assert not live.hand.alive


class Started:
    """Stands for recorder or policy: what is started and stopped, into one list."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.fault = name, log, ""

    def start(self) -> None:
        self.log.append(f"start {self.name}")

    def stop(self) -> None:
        self.log.append(f"stop {self.name}")

    def wait_until_ready(self) -> dict[str, str]:
        raise OSError("policy: no such checkpoint")


@pytest.mark.parametrize("broken", ["camera", "policy", "recorder"])
def test_what_was_started_is_stopped_in_reverse_order_when_a_start_fails(broken: str):
    log: list[str] = []
    live = live_control(None)
    recorder, policy = Started("recorder", log), Started("policy", log)
    session = Session(live.control, policy, recorder, log.append)  # type: ignore[arg-type]

    def connect(name: str) -> None:
        log.append(f"start {name}")
        if name == "d435" and broken == "camera":
            raise DeviceError("d435: missing")

    for device in session.devices():
        device.connect = functools.partial(connect, device.name)
        device.stop = functools.partial(log.append, f"stop {device.name}")
    recorder.fault = "recorder: does not start" if broken == "recorder" else ""
    with pytest.raises(OSError, match=r"d435: missing|no such checkpoint|does not start"), session:
        pass
    started = [line.removeprefix("start ") for line in log if line.startswith("start ")]
    stopped = [line.removeprefix("stop ") for line in log if line.startswith("stop ")]
    assert stopped == started[::-1]
    assert len(started) == {"recorder": 1, "camera": 5, "policy": 8}[broken]


class DyingPolicy:
    """A policy whose every process ends. plans: whether it gave one before."""

    def __init__(self, plans: bool) -> None:
        self.starts, self.plans = 0, plans

    def start(self) -> None:
        self.starts += 1

    def fault(self, now: float) -> str:
        return "policy: no memory"

    def newest(self) -> Report | None:
        return Report(0.0, actions=np.zeros((1, 1)) if self.plans else None)


def test_a_policy_that_dies_before_every_first_plan_is_given_up():
    said: list[str] = []
    policy = DyingPolicy(plans=False)
    upkeep = Upkeep(live_control(None).control, policy, said.append)  # type: ignore[arg-type]
    for _ in range(FRUITLESS_STARTS - 1):
        upkeep.look_after(0.0)
    with pytest.raises(DeviceError, match=r"policy: no memory\. Started 3 times without a plan"):
        upkeep.look_after(0.0)
    assert (policy.starts, upkeep.restarts, len(said)) == (2, 2, 2)
    policy.plans = True  # one that worked meanwhile is started again, as often as it takes
    for _ in range(10):
        upkeep.look_after(0.0)
