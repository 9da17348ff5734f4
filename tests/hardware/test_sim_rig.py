"""The whole asynchronous stack against the simulator in real time: processes, loops, recording. Order and safety."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

from dexhil.config import ConfigError, read_config_file
from dexhil.episodes.recorder import read_episode
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF
from hardware.runtime.report import results_of, write_hardware_report
from hardware.runtime.trials import Limits, Purpose, Trials, run_trials
from tests.hardware.fakes import StillPolicy
from tests.hardware.test_server_policy import INFO

CONFIG = Path("hardware/configs/fr3_dexhand021.py")


def patient_config():
    """One task, a person who takes over at once, watchdogs that bear a busy machine."""
    config = read_config_file(CONFIG, "debug")
    config.rig.tasks = ("plush",)
    config.rig.cameras = ("scene",)
    config.sim.image_size = 16
    config.sim.watchdog_min_s = 5.0
    config.policy.stale_s = 5.0
    config.episode.max_seconds = 6.0
    config.sim.person.late_s = 0.3
    config.sim.person.hand_back = 0.0
    config.episode.videos_per_task = 0
    return config


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trials]:
    folder = tmp_path_factory.mktemp("sim")
    (folder / "flags").mkdir()
    said: list[str] = []
    policy = functools.partial(StillPolicy, folder / "flags")
    config = patient_config()
    done = run_trials(config, "sim", folder, policy=policy, limits=Limits(1), say=said.append)
    assert any("begins" in line for line in said)
    return folder, done


def test_a_policy_runs_a_person_takes_over_and_all_of_it_is_recorded(trials: tuple[Path, Trials]):
    folder, done = trials
    (found,) = done.done
    assert found.takeovers
    assert found.recorded
    episode = read_episode(folder / "episodes" / found.episode_id)
    assert episode.metadata.operator == "simulated person"
    assert episode.metadata.takeovers == found.takeovers
    assert max(largest for largest, _ in found.takeover_jumps) < 0.005
    flags = [step.is_intervention for step in episode.steps]
    assert not flags[0]
    assert any(flags)
    times = np.array([step.observation.timestamp for step in episode.steps])
    assert (np.diff(times) > 0).all()
    actions = np.array([step.action for step in episode.steps])
    assert (actions >= SPEC.lower - 1e-5).all()
    assert (actions <= SPEC.upper + 1e-5).all()
    arm = np.array([step.observation.q_arm for step in episode.steps])
    behind = np.abs(arm - actions[:, :ARM_DOF])  # the simulated arm goes where it is told to, late on a busy machine
    assert np.median(behind) < 0.05


def test_the_report_has_the_contracted_keys(trials: tuple[Path, Trials]):
    folder, done = trials
    results = results_of(done)
    assert set(results) >= {"score", "loops", "safety_events", "takeovers"}
    assert results["score"]["tasks"]["plush"]["trials"] == 1
    for name, hz in (("policy", 20.0), ("arm", 30.0), ("hand", 90.0)):
        stats = results["loops"][name]
        assert set(stats) == {"target_hz", "mean_hz", "jitter_p50_ms", "jitter_p99_ms", "missed"}
        assert stats["target_hz"] == hz
        assert stats["mean_hz"] > 0
    report = {"command": "hardware eval", "config": {}, "code_version": "0", "seconds": 1.0, "lineage": {}}
    page = write_hardware_report(folder, report | {"results": results}, done)
    assert "Safety layer" in page.read_text()


def test_a_demonstration_begins_when_the_person_takes_over(tmp_path: Path):
    config = patient_config()
    config.episode.max_seconds = 1.5
    limits, purpose = Limits(1, counts=lambda done: True), Purpose("offline", 0, "demo", scored=False)
    demonstrate = functools.partial(run_trials, config, "sim", tmp_path, policy=None, limits=limits, purpose=purpose)
    done = demonstrate(say=lambda text: None)
    (found,) = done.done
    assert found.recorded
    episode = read_episode(tmp_path / "episodes" / found.episode_id)
    assert episode.metadata.source == "offline"
    assert episode.steps[0].is_intervention
    assert np.isnan(episode.steps[0].policy_action).all()
    again = demonstrate(say=lambda text: None)
    assert again.done == done.done  # it counts already, and stays in the report


def test_a_policy_of_another_robot_is_refused(tmp_path: Path):
    from hardware.runtime.trials import check_policy

    class Session:
        policy = object()
        identity = {"info": dataclasses.replace(INFO, robot="ur5"), "checkpoint_id": "x/1"}  # noqa: RUF012

    with pytest.raises(ConfigError, match="was trained on robot 'ur5'"):
        check_policy(Session(), patient_config())  # type: ignore[arg-type]
