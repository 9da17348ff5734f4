"""Policy and recorder in processes of their own: killed, stopped, hung, returning NaN, on a full disk."""

import dataclasses
import functools
import itertools
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexhil.control.executor import Request
from dexhil.episodes.recorder import list_episodes, read_episode
from dexhil.episodes.repair import repair
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import EpisodeMetadata, Step
from hardware.runtime.policy_process import PolicyProcess, Question, Report
from hardware.runtime.recording import QUEUE_STEPS, SAFETY_FILE, Recorder
from tests.hardware.fakes import StillPolicy, observation

PATIENCE_S = 60.0


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flags")


@pytest.fixture(scope="module")
def policy(flags: Path) -> Iterator[PolicyProcess]:
    process = PolicyProcess(functools.partial(StillPolicy, flags), hz=50.0, image_bytes=1 << 16, hung_s=0.5)
    process.start()
    yield process
    process.stop()


numbers = itertools.count(1)


def ask(policy: PolicyProcess, prefix: np.ndarray | None = None) -> Request:
    request = Request(time.monotonic(), 0, next(numbers), prefix is None, prefix, 0 if prefix is None else 2)
    policy.ask(Question(observation(), request, 0))
    return request


def answer(policy: PolicyProcess, prefix: np.ndarray | None = None) -> Report:
    """The report on a new observation."""
    request = ask(policy, prefix)

    def told() -> bool:
        report = policy.newest()
        return report is not None and report.request is not None and report.request.number == request.number

    wait_for(told)
    report = policy.newest()
    assert report is not None
    return report


def test_an_answer_carries_its_request_and_the_policy_got_prefix_and_delay(policy: PolicyProcess):
    assert policy.wait_until_ready() == {"checkpoint_id": "still/1"}
    report = answer(policy)
    assert report.request is not None
    assert 0 <= time.monotonic() - report.request.time < PATIENCE_S
    assert report.actions is not None
    np.testing.assert_allclose(report.actions, np.tile(SPEC.home, (16, 1)))
    assert policy.fault(time.monotonic()) == ""
    assert set(answer(policy).stats) == {"target_hz", "mean_hz", "jitter_p50_ms", "jitter_p99_ms", "missed"}
    prefix = np.tile(SPEC.home + np.float32(0.1), (5, 1))
    actions = answer(policy, prefix).actions
    assert actions is not None
    np.testing.assert_array_equal(actions[:2], prefix[:2])
    np.testing.assert_allclose(actions[2:], np.tile(SPEC.home, (14, 1)))


@pytest.mark.parametrize(("flag", "message"), [("nan", "not finite"), ("raise", "out of ideas")])
def test_a_policy_that_returns_nonsense_gives_an_error_in_place_of_a_plan_and_recovers(
    policy: PolicyProcess, flags: Path, flag: str, message: str
):
    policy.wait_until_ready()
    (flags / flag).touch()
    wait_for(lambda: message in answer(policy).error)
    assert policy.newest().actions is None  # type: ignore[union-attr]
    (flags / flag).unlink()
    wait_for(lambda: not answer(policy).error)


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSTOP", "hang", "die"])
def test_a_policy_that_ends_or_hangs_is_told_and_can_be_started_again(policy: PolicyProcess, flags: Path, fault: str):
    policy.wait_until_ready()
    if fault.startswith("SIG"):
        os.kill(policy.pid, getattr(signal, fault))
    else:
        (flags / fault).touch()
        ask(policy)

    def found() -> str:
        ask(policy)  # control goes on leaving observations, and never waits
        return policy.fault(time.monotonic())

    wait_for(found)
    wanted = {"SIGKILL": "signal SIGKILL", "SIGSTOP": "hangs", "hang": "hangs", "die": "exit status 3"}[fault]
    wait_for(lambda: wanted in policy.fault(time.monotonic()))
    for path in flags.iterdir():
        path.unlink()
    policy.start()
    assert policy.wait_until_ready()
    assert answer(policy).actions is not None


def metadata(name: str, success: int = 1) -> EpisodeMetadata:
    return EpisodeMetadata(name, "plush", success, "online", 1, "still/1", "tester", SPEC.name, 0, 0, 0.0)


def step(number: int) -> Step:
    seen = dataclasses.replace(observation(), timestamp=number / 20.0)
    return Step(seen, SPEC.home.copy(), policy_action=SPEC.home.copy(), is_intervention=False)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    made = Recorder(tmp_path / "episodes", control_hz=20.0)
    made.start()
    yield made
    made.stop()


def record(recorder: Recorder, name: str, steps: int = 5) -> Path | None:
    recorder.open(metadata(name, -1))
    for number in range(steps):
        recorder.step(step(number))
    return recorder.finish(metadata(name), timeout_s=PATIENCE_S)


def test_an_episode_is_recorded_with_what_the_safety_layer_did(recorder: Recorder):
    recorder.open(metadata("one", -1))
    for number in range(5):
        recorder.step(step(number))
    recorder.events([{"cause": "velocity", "begin": 0.1}])
    path = recorder.finish(metadata("one"), timeout_s=PATIENCE_S)
    assert path is not None
    episode = read_episode(path)
    assert len(episode.steps) == 5
    assert episode.metadata == metadata("one")
    assert json.loads((path / SAFETY_FILE).read_text()) == {"cause": "velocity", "begin": 0.1}


def test_an_abandoned_episode_leaves_nothing(recorder: Recorder):
    recorder.open(metadata("gone", -1))
    recorder.step(step(0))
    recorder.abandon()
    assert record(recorder, "kept") is not None
    assert [path.name for path in recorder.root.iterdir()] == ["kept"]


def test_a_full_disk_is_told_finished_episodes_survive_and_recording_goes_on(recorder: Recorder):
    assert record(recorder, "before") is not None
    full = recorder.root / "before" / "steps.bin"
    limit = full.stat().st_size // 2
    unlimited = resource.prlimit(recorder.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    assert record(recorder, "cut", steps=50) is None
    assert "disk is full" in recorder.fault
    assert "data_pipeline.repair" in recorder.fault
    resource.prlimit(recorder.pid, resource.RLIMIT_FSIZE, unlimited)
    recorder.start()
    report = repair(recorder.root)
    assert 0 < report.salvaged["cut"] < 50
    assert not report.damaged
    assert record(recorder, "after") is not None
    assert [path.name for path in list_episodes(recorder.root)] == ["after", "before", "cut"]


def test_a_killed_recorder_is_told_and_what_it_wrote_survives(recorder: Recorder):
    assert record(recorder, "before") is not None
    recorder.open(metadata("cut", -1))
    for number in range(20):
        recorder.step(step(number))
    wait_for(lambda: any(p.stat().st_size > 4000 for p in recorder.root.glob(".open-*/steps.bin")))
    os.kill(recorder.pid, signal.SIGKILL)
    wait_for(recorder.poll)
    assert "process ended" in recorder.fault
    for number in range(20, 500):  # control goes on and never waits
        recorder.step(step(number))
    recorder.start()
    assert repair(recorder.root).salvaged["cut"] > 0
    assert record(recorder, "after") is not None


def test_a_recorder_that_stands_still_never_makes_control_wait(recorder: Recorder):
    recorder.open(metadata("slow", -1))
    os.kill(recorder.pid, signal.SIGSTOP)
    for number in range(2000):
        recorder.step(step(number))
    assert "steps behind" in recorder.fault
    os.kill(recorder.pid, signal.SIGCONT)


def test_more_interventions_than_the_queue_holds_are_recorded(recorder: Recorder):
    recorder.open(metadata("one", -1))
    recorder.step(step(0))
    recorder.events([{"cause": "velocity", "begin": k} for k in range(3 * QUEUE_STEPS)])
    path = recorder.finish(metadata("one"), timeout_s=PATIENCE_S)
    assert recorder.fault == ""
    assert path is not None
    assert len((path / SAFETY_FILE).read_text().splitlines()) == 3 * QUEUE_STEPS


def test_an_answer_of_before_a_new_start_is_not_taken_for_the_next(recorder: Recorder):
    recorder.open(metadata("one", -1))
    recorder.step(step(0))
    os.kill(recorder.pid, signal.SIGSTOP)
    assert recorder.finish(metadata("one"), timeout_s=0.05) is None
    assert "no answer" in recorder.fault
    os.kill(recorder.pid, signal.SIGCONT)  # too late, though it is written now
    wait_for(lambda: list_episodes(recorder.root))
    recorder.poll()
    recorder.start()
    assert record(recorder, "next") == recorder.root / "next"


def test_an_episode_begins_only_once_its_file_is_there(recorder: Recorder):
    recorder.open(metadata("one", -1))
    assert list(recorder.root.glob(".open-*/steps.bin"))
    recorder.abandon()


def no_checkpoint() -> Any:
    raise ValueError("/nowhere: expected the workdir of a training run")


def test_a_policy_that_cannot_be_loaded_says_why_in_one_line():
    process = PolicyProcess(no_checkpoint, hz=20.0, image_bytes=1 << 10)
    process.start()
    with pytest.raises(OSError, match=r"^policy: /nowhere: expected the workdir of a training run$"):
        process.wait_until_ready()
    process.stop()
