"""What is kept of every episode, and the report of all of them."""

import dataclasses
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexhil.episodes.recorder import EpisodeWriter
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import EpisodeMetadata, Step
from hardware.runtime.done import FILE, Done, keep, read_done
from hardware.runtime.films import Films, film_path
from hardware.runtime.report import results_of, write_hardware_report
from hardware.runtime.trials import Limits, Trials, next_task
from tests.hardware.fakes import FakeDevice, observation

CORRECTED = Done(
    "plush", 4, "a", 1, "success", "", 10.0, "r", 2, [(0.1, 0.2), (0.3, 0.4)], [(0.5, 0.6)],
    [(0.0, 4.0, "policy"), (4.0, 7.5, "person"), (7.5, 10.0, "policy")], {"velocity": 3}, False,
)  # fmt: skip
ALONE = Done("plush", 5, "b", 1, "success", "", 6.0, "r", control=[(0.0, 6.0, "policy")], recorded=False)
DROPPED = Done("plush", 6, "c", 0, "time", "dropped", 8.0, "r", control=[(0.0, 8.0, "policy")], recorded=False)
UNKNOWN = Done("plush", 7, "d", -1, "recorder: full", "", 2.0, "r", recorded=False)


def trials(*done: Done, checkpoint: str = "run/1", **more: Any) -> Trials:
    facts: dict[str, Any] = {"loops": {}, "scheduling": "SCHED_FIFO", "policy_restarts": 0} | more
    return Trials(("plush",), list(done), checkpoint=checkpoint, **facts)


def record(root: Path, name: str, success: int) -> None:
    metadata = EpisodeMetadata(name, "plush", success, "offline", 0, "", "tester", SPEC.name, 9, 1, 0.25)
    with EpisodeWriter(root, control_hz=20.0, draft=metadata) as writer:
        for k in range(3):
            seen = dataclasses.replace(observation(), timestamp=k / 20)
            action = SPEC.home.copy()
            writer.append(Step(seen, action, policy_action=np.full_like(action, np.nan), is_intervention=True))
        writer.finish(metadata)


def test_episodes_come_back_as_they_were_and_a_torn_line_costs_one(tmp_path: Path):
    for done in (CORRECTED, ALONE):
        keep(tmp_path, done)
    path = tmp_path / FILE
    path.write_text(path.read_text()[:-9])  # killed while it wrote
    keep(tmp_path, DROPPED)
    found = read_done(tmp_path)
    assert [done.episode_id for done in found] == ["a", "c"]
    assert found[0] == CORRECTED
    assert read_done(tmp_path, "another run") == []


def test_an_episode_without_a_line_speaks_for_itself_and_a_removed_one_is_gone(tmp_path: Path):
    record(tmp_path / "episodes", "salvaged", -1)
    record(tmp_path / "episodes", "old", 1)
    keep(tmp_path, dataclasses.replace(ALONE, recorded=True))  # its folder was deleted since
    old, salvaged = read_done(tmp_path)
    assert (old.succeeded, old.takeovers, old.takeover_jumps, old.run) == (True, 1, [(0.25, 0.25)], "offline 0")
    assert (salvaged.success, salvaged.ended, salvaged.seconds) == (-1, "interrupted", pytest.approx(0.15))


def test_alone_and_with_help_are_two_scores_and_a_persons_time_is_said_twice():
    results = results_of(trials(CORRECTED, ALONE, DROPPED, UNKNOWN))
    assert results["score"]["tasks"]["plush"]["successes"] == 1
    assert results["score_assisted"]["tasks"]["plush"]["successes"] == 2
    assert results["score"]["tasks"]["plush"]["trials"] == 3  # what nobody judged is none
    assert (results["human_seconds"], results["watched_seconds"]) == (3.5, 26.0)
    assert (results["takeovers"], results["safety_events"], results["safety"]) == (2, 3, {"velocity": 3})
    assert results["jumps"]["takeover"] == {"count": 2, "max": 0.3, "l2_max": 0.4}
    assert results["jumps"]["release"] == {"count": 1, "max": 0.5, "l2_max": 0.6}


def page(folder: Path, made: Trials) -> str:
    report = {
        "command": "hardware collect", "invocation": "python hardware/collect.py --out data/x", "config": {},
        "code_version": "0", "seconds": 1.0, "lineage": {}, "results": results_of(made),
    }  # fmt: skip
    return write_hardware_report(folder, report, made).read_text()


def test_the_page_shows_both_scores_the_command_and_why_it_stopped(tmp_path: Path):
    shown = page(tmp_path, trials(CORRECTED, ALONE, DROPPED, error="arm: gone for good"))
    for text in ("success alone", "success with help", "67 %", "33 %", "2 takeovers", "dropped", "arm: gone for good"):
        assert text in shown
    assert "python hardware/collect.py --out data/x" in shown
    assert "SCHED_FIFO" in shown


def test_demonstrations_that_succeeded_are_successes(tmp_path: Path):
    shown_by = [(0.0, 6.0, "person")]
    both = [dataclasses.replace(ALONE, control=shown_by, seed=seed) for seed in (1, 2)]
    made = trials(*both, checkpoint="")
    assert results_of(made)["score"]["tasks"] == {}
    assert results_of(made)["score_assisted"]["mean_rate"] == 1.0
    shown = page(tmp_path, made)
    assert "demonstrated" in shown
    assert "taken over" not in shown
    assert "success alone" not in shown
    assert "100 %" in shown


def test_a_real_robots_cameras_are_filmed_and_failures_are_kept(tmp_path: Path):
    cameras = {
        "scene": FakeDevice("a", np.full((60, 80, 3), 200, np.uint8)),
        "wrist": FakeDevice("b", np.full((64, 64, 3), 90, np.uint8)),
    }
    rig: Any = types.SimpleNamespace(world=None, devices={"cameras": cameras})
    films = Films(rig, tmp_path / "videos", per_task=1)
    for number, failed in enumerate([False, False, True, True, True, True]):
        films.begin()
        for k in range(4):
            films.watch(k * 0.1, "person")  # 5 frames a second: every other
        assert len(films._frames) == 2
        films.keep("plush", f"e{number}", failed)
    kept = sorted(path.stem for path in (tmp_path / "videos").glob("*.mp4"))
    assert kept == ["e0", "e2", "e3", "e4"]
    assert film_path(tmp_path / "videos", "e0").with_suffix(".jpg").is_file()
    picture = films._picture()
    assert picture is not None
    assert picture.shape == (240, 320, 3)
    assert (picture[120, 40], picture[120, 300]) == (pytest.approx([200] * 3), pytest.approx([0] * 3))
    cameras["wrist"].alive, cameras["wrist"]._last = False, None
    assert films._picture() is None


def test_a_quota_goes_on_where_it_was_and_an_attempt_that_does_not_count_is_repeated():
    limits, new = Limits(2, counts=lambda done: done.succeeded, max_attempts=2), list[Done]()
    assert next_task(["plush", "tissue"], limits, [ALONE], new) == "plush"
    new += [DROPPED, dataclasses.replace(DROPPED, task="tissue")]
    assert next_task(["plush", "tissue"], limits, [ALONE], new) == "plush"  # a failure does not count
    new.append(ALONE)
    assert next_task(["plush", "tissue"], limits, [ALONE], new) == "tissue"  # plush has two
    new += [dataclasses.replace(DROPPED, task="tissue")] * 3
    assert next_task(["plush", "tissue"], limits, [ALONE], new) is None  # tissue had its attempts
    assert next_task(["plush"], dataclasses.replace(limits, minutes=1.0), [ALONE, ALONE], []) == "plush"
