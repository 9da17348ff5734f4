"""The whole stack against stand-ins that speak the protocols of robot, hand, camera and gamepad."""

import functools
from pathlib import Path

import numpy as np
import pytest

from dexhil.config import read_config_file
from dexhil.recorder import list_episodes, read_episode
from dexhil.robot import FR3_DEXHAND021 as SPEC
from hardware.trials import Limits, run_trials
from tests.hardware.fakes import StillPolicy
from tests.hardware.support import peer

for package in ("franky", "franky_sim", "can", "zmq", "pygame"):
    pytest.importorskip(package, reason=f"{package} is missing: make extras")
pytest.importorskip("pyrealsense2", exc_type=ImportError, reason="pyrealsense2 cannot be loaded: make setup")


def test_policy_takeover_release_and_recording_through_every_driver(tmp_path: Path):
    from hardware.peers.realsense import record

    rng = np.random.default_rng(0)
    record(tmp_path / "scene.db3", [rng.integers(0, 255, (240, 320, 3), np.uint8) for _ in range(30)])
    config = read_config_file(Path("hardware/configs/peers.py"), "debug")
    config.rig.tasks, config.rig.cameras = ("plush",), ("scene",)
    config.devices.cameras.scene.file = str(tmp_path / "scene.db3")
    config.devices.hand.bus.port = 43117
    config.devices.glove = {"driver": "gamepad_hand"}
    config.devices.operator = {"driver": "scripted_gamepad", "cycle_s": 6.0, "take_s": 1.5, "give_s": 3.5}
    for device in (config.devices.arm, config.devices.hand, config.devices.cameras.scene):
        device.silent_s = 5.0
    config.safety.watchdog_least_s = 5.0
    config.policy.stale_s = 5.0
    config.episode.max_seconds = 60.0
    (tmp_path / "flags").mkdir()
    with peer("hardware.peers.fr3"), peer("hardware.peers.dexhand021", "--port", "43117"):
        done = run_trials(
            config,
            "real",
            tmp_path / "episodes",
            policy=functools.partial(StillPolicy, tmp_path / "flags"),
            limits=Limits(1),
            say=lambda text: None,
        )
    (found,) = done.done
    assert found.episode.ended == "success"
    kinds = [change.kind for change in found.episode.changes]
    assert "takeover" in kinds
    assert "release" in kinds
    assert max(change.asked.max for change in found.episode.changes) < 0.005
    (path,) = list_episodes(tmp_path / "episodes")
    episode = read_episode(path)
    flags = [step.is_intervention for step in episode.steps]
    assert any(flags)
    assert not all(flags)
    actions = np.array([step.action for step in episode.steps])
    assert (actions >= SPEC.lower - 1e-3).all()
    assert (actions <= SPEC.upper + 1e-3).all()
    assert episode.steps[0].observation.images["scene"].shape == (240, 320, 3)
