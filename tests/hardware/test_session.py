"""The loops in real time with devices of the test, a real policy process and a real recorder: order, never speed."""

import dataclasses
import functools
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dexhil.control import takeover
from dexhil.control.takeover import Mode
from dexhil.episodes.recorder import list_episodes, read_episode
from dexhil.robots.poses import make_pose, rotation
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF, EpisodeMetadata
from hardware.devices.base import DeviceError
from hardware.runtime.control import Phase
from hardware.runtime.policy_process import PolicyProcess
from hardware.runtime.recording import SAFETY_FILE, Recorder
from hardware.runtime.session import Episode, Quit, Session
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
    assert (episode.success, episode.ended, len(episode.jumps("takeover"))) == (1, "success", 1)
    assert {change.kind for change in episode.changes} == {"takeover", "release"}
    assert max(change.asked.max for change in episode.changes) < 0.005
    assert any(end > begin and who == "person" for begin, end, who in episode.control)
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
    corrected = [step for step in recorded.steps if step.is_intervention]
    assert any(np.isfinite(step.policy_action).all() for step in corrected)  # the policy is asked meanwhile
    loops = stage.session.loop_stats()
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
    assert stage.session.upkeep.restarts == (0 if fault == "nan" else 1)
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
    assert not any(stage.control.watch.outside)


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
        lambda: stage.operator.press("clear_estop") or not stage.control.watch.lost,
        stage.autonomous,
    )
    assert episode.success == 1
    assert stage.heard("LOST")


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


def test_quit_and_discard_end_an_episode_that_waits_for_its_takeover(stage: Stage):
    draft = EpisodeMetadata("demo", "plush", -1, "offline", 0, "", "tester", SPEC.name, 0, 0, 0.0)
    demonstrate = functools.partial(stage.session.run_episode, draft, "Grab", 120.0, from_takeover=True)
    stage.during(lambda: stage.steps(3))  # an episode before it, whose steps are not this one's
    for event in ("discard", "quit"):
        calls = iter(range(1000))

        def press(_: float, event: str = event, calls: Iterator[int] = calls) -> bool:
            number = next(calls)
            assert number < 500, "it waits for ever"
            if number == 3:
                stage.operator.press("success")  # of nothing yet
            if number == 20:
                stage.operator.press(event)
            return True

        episode = demonstrate(watch=press)
        assert (episode.ended, episode.path, episode.seconds, episode.success) == (event, None, 0.0, -1)
    assert demonstrate(watch=lambda seconds: False).ended == "quit"
    assert [path.name for path in list_episodes(stage.recorder.root)] == ["episode-1"]


def test_a_person_who_quits_or_a_command_that_stops_ends_the_wait_for_start(stage: Stage):
    said = iter([*[False] * 5, True])
    stage.session.stopping = lambda: next(said)
    with pytest.raises(Quit):
        stage.session.wait_for_event("start")
    stage.session.stopping = lambda: stage.operator.press("quit") or False
    with pytest.raises(Quit):
        stage.session.wait_for_event("start")
    stage.session.stopping = lambda: stage.operator.press("start") or False
    stage.session.wait_for_event("start")


def test_nothing_moves_where_nothing_can_be_recorded(stage: Stage):
    shutil.rmtree(stage.recorder.root)
    stage.recorder.root.write_text("in the way")
    with pytest.raises(DeviceError, match="recorder: "):
        stage.during(lambda: True)
    assert stage.control.latest.phase is Phase.IDLE


def test_an_episode_in_which_the_session_breaks_is_kept_and_says_why(stage: Stage):
    def break_it() -> bool:
        def fail() -> None:
            raise DeviceError("a control loop died: of the test")

        stage.session.loops.check = fail  # type: ignore[method-assign]
        return False

    episode = stage.during(lambda: stage.steps(5), break_it)
    assert stage.session.broken == episode.ended == "a control loop died: of the test"
    assert episode.success == -1
    assert episode.path is not None
    assert len(read_episode(episode.path).steps) >= 5


def test_the_jump_of_a_takeover_shows_an_anchor_that_is_wrong(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    anchored = takeover._anchor

    def beside(command: np.ndarray, human: takeover.HumanCommand) -> takeover.Anchors:
        anchors = anchored(command, human)
        pose = make_pose(anchors.pose_base_ee[:3] + 0.02, rotation(anchors.pose_base_ee))
        return dataclasses.replace(anchors, pose_base_ee=pose)

    def corrected() -> Episode:
        return stage.during(
            stage.autonomous,
            lambda: engage(stage.operator, True),
            lambda: stage.control.latest.is_intervention,
            lambda: engage(stage.operator, False),
            stage.autonomous,
        )

    assert corrected().max_jump("takeover") < 1e-3
    monkeypatch.setattr(takeover, "_anchor", beside)
    episode = corrected()
    assert episode.max_jump("takeover") > 0.02
    assert episode.path is not None
    assert read_episode(episode.path).metadata.max_takeover_jump > 0.02
