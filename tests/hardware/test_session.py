"""The loops in real time with devices of the test, a real policy process and a real recorder: order, never speed."""

import functools
import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dexhil.control.takeover import Mode
from dexhil.episodes.recorder import list_episodes, read_episode
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF, EpisodeMetadata
from hardware.devices.base import DeviceError
from hardware.runtime.control import Phase
from hardware.runtime.policy_process import PolicyProcess
from hardware.runtime.recording import SAFETY_FILE, Recorder
from hardware.runtime.session import Episode, Session
from tests.hardware.fakes import FakeOperator, StillPolicy, arm_state, live_control


class Stage:
    """A session, its operator and all that it said. `during(action, …)` runs an episode with actions in order."""

    def __init__(self, folder: Path) -> None:
        self.flags = folder / "flags"
        self.flags.mkdir(parents=True)
        self.policy = PolicyProcess(
            functools.partial(StillPolicy, self.flags), hz=20.0, image_bytes=1 << 16, hung_s=2.0
        )
        self.recorder = Recorder(folder / "episodes", control_hz=20.0)
        self.said: list[str] = []
        live = live_control(self.policy.newest)
        self.control, self.arm, self.hand, self.operator = live.control, live.arm, live.hand, live.operator
        self.session = Session(self.control, self.policy, self.recorder, self.said.append)
        self.count = 0

    def during(self, *actions: Callable[[], object]) -> Episode:
        """An action is called again and again until it says something true; then the next one. The last ends it."""
        waiting, began = list(actions), time.monotonic()

        def watch(_: float) -> bool:
            assert time.monotonic() - began < 100, f"stuck; said: {self.said}"
            while waiting and waiting[0]():
                waiting.pop(0)
            if not waiting:
                self.operator.press("success")
                waiting.append(lambda: False)
            return True

        self.count += 1
        draft = EpisodeMetadata(
            f"episode-{self.count}", "plush", -1, "online", 1, "still/1", "tester", SPEC.name, 0, 0, 0.0
        )
        return self.session.run_episode(draft, "Grab that yellow plushie", 120.0, watch=watch)

    def autonomous(self) -> bool:
        return self.control.latest.mode is Mode.AUTONOMOUS

    def held(self) -> bool:
        return self.control.latest.mode is Mode.HOLD

    def heard(self, what: str) -> bool:
        return any(what in line for line in self.said)

    def steps(self, count: int) -> bool:
        return self.session.observer.steps >= count


@pytest.fixture
def stage(tmp_path: Path):
    made = Stage(tmp_path)
    with made.session:
        made.session.go_to(Phase.IDLE)
        yield made


def engage(operator: FakeOperator, wanted: bool) -> bool:
    operator.value = wanted
    return True


def test_an_episode_with_a_takeover_is_recorded_as_it_happened(stage: Stage):
    control = stage.control
    episode = stage.during(
        stage.autonomous,
        lambda: stage.steps(5),
        lambda: engage(stage.operator, True),
        lambda: control.latest.is_intervention and stage.steps(12),
        lambda: engage(stage.operator, False),
        stage.autonomous,
        lambda: stage.steps(25),
    )
    assert (episode.success, episode.ended, len(episode.takeovers)) == (1, "success", 1)
    assert {change.kind for change in episode.changes} == {"takeover", "release"}
    assert max(change.asked.max for change in episode.changes) < 0.005
    assert episode.human_seconds() > 0
    assert episode.path is not None
    recorded = read_episode(episode.path)
    assert recorded.metadata.takeovers == 1
    flags = [step.is_intervention for step in recorded.steps]
    assert True in flags
    assert False in flags
    times = np.array([step.observation.timestamp for step in recorded.steps])
    assert (np.diff(times) > 0).all()
    for step in recorded.steps:
        np.testing.assert_allclose(step.action, SPEC.home, atol=0.01)
        assert np.isnan(step.policy_action).all() or not step.is_intervention
    loops = stage.session.loops()
    assert set(loops) >= {"policy", "arm", "hand"}
    assert {name: loops[name]["target_hz"] for name in ("policy", "arm", "hand")} == {
        "policy": 20,
        "arm": 30,
        "hand": 90,
    }


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSTOP", "nan"])
def test_a_broken_policy_holds_the_robot_is_told_and_started_again(stage: Stage, fault: str):
    def break_it() -> bool:
        if fault == "nan":
            (stage.flags / "nan").touch()
        else:
            os.kill(stage.policy.pid, getattr(signal, fault))
        return True

    def mend_it() -> bool:
        for path in stage.flags.iterdir():
            path.unlink()
        return True

    told = {"SIGKILL": "SIGKILL", "SIGSTOP": "hangs", "nan": "not finite"}[fault]
    episode = stage.during(stage.autonomous, break_it, stage.held, lambda: stage.heard(told), mend_it, stage.autonomous)
    assert episode.success == 1
    assert "watchdog:policy" in {span["cause"] for span in episode.interventions}
    assert stage.session.policy_restarts == (0 if fault == "nan" else 1)
    assert episode.path is not None
    spans = [json.loads(line) for line in (episode.path / SAFETY_FILE).read_text().splitlines()]
    assert any(span["cause"] == "watchdog:policy" and 0 <= span["begin"] <= episode.seconds for span in spans)


@pytest.mark.parametrize("fault", ["full disk", "killed"])
def test_a_broken_recorder_holds_the_robot_episodes_survive_and_the_next_one_is_recorded(stage: Stage, fault: str):
    assert stage.during(lambda: stage.steps(5)).path is not None
    held: list[bool] = []

    def break_it() -> bool:
        if fault == "killed":
            os.kill(stage.recorder.pid, signal.SIGKILL)
        else:
            resource.prlimit(stage.recorder.pid, resource.RLIMIT_FSIZE, (4000, 4000))
        return True

    def notice() -> bool:
        held.append(stage.held())
        return False

    episode = stage.during(lambda: stage.steps(5), break_it, notice)
    assert episode.ended.startswith("recorder:")
    assert episode.success == -1
    assert stage.heard("salvaged episode-2")
    assert stage.during(stage.autonomous, lambda: stage.steps(5)).path is not None
    names = [path.name for path in list_episodes(stage.recorder.root)]
    assert names == ["episode-1", "episode-2", "episode-3"]
    assert not any(stage.control.outside)


def test_a_lost_actuator_is_connected_again_and_waits_for_consent(stage: Stage):
    hand = stage.hand

    def lose_it() -> bool:
        hand.broken = "stalled"
        hand.alive = False
        return True

    def mend_it() -> bool:
        hand.broken, hand.alive = "", True
        return True

    episode = stage.during(
        stage.autonomous,
        lose_it,
        stage.held,
        lambda: hand.connected > 1,
        mend_it,
        lambda: stage.operator.press("clear_estop") or not stage.control.lost,
        stage.autonomous,
    )
    assert episode.success == 1
    assert stage.heard("LOST")


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
    with pytest.raises(OSError, match="policy: its process ended"), Session(live.control, policy, recorder):
        pass
    assert not any(child.name in ("policy", "recorder") for child in multiprocessing.active_children())
    assert not live.arm.alive
    assert not live.hand.alive


def test_a_discarded_episode_is_not_kept(stage: Stage):
    episode = stage.during(lambda: stage.steps(3), lambda: stage.operator.press("discard"))
    assert (episode.ended, episode.path) == ("discard", None)
    assert list_episodes(stage.recorder.root) == []


def test_a_robot_that_does_not_get_there_is_an_error_with_its_reason(stage: Stage):
    stage.operator.valid = False
    stage.arm.value = arm_state(SPEC.home[:ARM_DOF] + 0.3)
    stage.session.go_to(Phase.OFF)
    with pytest.raises(DeviceError, match=r"arrive at home.*pad"):
        stage.session.home(timeout_s=0.5)
