"""A round with the hardware commands against stand-ins that speak the protocols of every device, up to training.

In a process of its own, as at the robot: SDL keeps what other tests have plugged into this one.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dexhil.commands import read_metrics
from dexhil.episodes.recorder import list_episodes, read_episode, read_facts
from dexhil.models.config import TINY
from dexhil.retargeting import network
from dexhil.retargeting.hand import simulated_dexhand021
from dexhil.retargeting.runtime import Model, save
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from experiments.benchmarks.random_policy import save_random_checkpoint
from experiments.online import read_online
from tests.hardware.support import ROOT, emulator

for package in ("franky", "franky_sim", "can", "zmq", "pygame"):
    pytest.importorskip(package, reason=f"{package} is missing: make extras")
pytest.importorskip("pyrealsense2", exc_type=ImportError, reason="pyrealsense2 cannot be loaded: make setup")

CAN_PORT, GLOVE = 43117, "tcp://127.0.0.1:18765"  # not those of the config: somebody may try it meanwhile
LIMIT_S = 600


def run(script: str, *arguments: str) -> None:
    """The command; one that fails or hangs fails the test, with what it said."""
    process = subprocess.Popen(
        [sys.executable, script, *arguments], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"{script} did not end in {LIMIT_S} s; it said:\n{process.communicate()[0]}")
    assert process.returncode == 0, said


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An online round with a policy of random numbers and a scripted person at the gamepad."""
    from hardware.emulators.realsense import record

    folder = tmp_path_factory.mktemp("round")
    rng = np.random.default_rng(0)
    record(folder / "scene.db3", [rng.integers(0, 255, (240, 320, 3), np.uint8) for _ in range(30)])
    save_random_checkpoint(folder / "run", dataclasses.replace(TINY, cameras=("scene",)))
    hand = simulated_dexhand021()
    save(Model(hand, network.init(rng, hand, 16), {}), folder / "retargeter.npz")
    with (
        emulator("hardware.emulators.fr3") as robot,
        emulator("hardware.emulators.dexhand021", "--port", str(CAN_PORT)),
        emulator("hardware.emulators.glove", "--address", GLOVE),
    ):
        run(
            "hardware/collect.py",
            "--config=hardware/configs/emulators.py",
            f"--checkpoint={folder / 'run'}",
            "--episodes=2",
            f"--out={folder / 'online'}",
            "--config.rig.tasks=plush",
            "--config.rig.cameras=scene",
            f"--config.devices.arm.host={robot.said.strip()}",
            f"--config.devices.hand.bus.port={CAN_PORT}",
            f"--config.devices.glove.address={GLOVE}",
            f"--config.devices.cameras.scene.file={folder / 'scene.db3'}",
            f"--config.teleop.retargeter={folder / 'retargeter.npz'}",
            *(f"--config.devices.{name}.silent_s=5.0" for name in ("arm", "hand", "cameras.scene")),
            "--config.safety.watchdog_min_s=5.0",  # patient: other tests share the processor
            "--config.policy.stale_s=5.0",
            "--config.episode.max_seconds=60.0",
        )
    return folder


def test_policy_takeover_release_and_recording_through_every_driver(recorded: Path) -> None:
    paths = list_episodes(recorded / "online" / "episodes")
    assert sum(read_facts(path)[0].success == 1 for path in paths) >= 2
    for path in paths:
        episode = read_episode(path)
        assert episode.metadata.max_takeover_jump < 0.005
        flags = [step.is_intervention for step in episode.steps]
        assert any(flags)
        assert not all(flags)
        actions = np.array([step.action for step in episode.steps])
        assert (actions >= SPEC.lower - 1e-3).all()
        assert (actions <= SPEC.upper + 1e-3).all()
        hand = np.array([step.action[7:] for step in episode.steps if step.is_intervention])
        assert np.ptp(hand, axis=0).max() > 0.05  # the glove moves it
        assert episode.steps[0].observation.images["scene"].shape == (240, 320, 3)
    results = json.loads((recorded / "online" / "report.json").read_text())["results"]
    assert results["loops"]["policy"]["mean_hz"] > 0
    for change in ("takeover", "release"):
        assert results["jumps"][change]["count"] > 0
    assert results["jumps"]["takeover"]["max"] < 0.005


def test_the_rounds_take_it_as_a_round_of_theirs(recorded: Path) -> None:
    rollouts = read_online(recorded / "online", "dexhil", 1)
    assert len(rollouts) >= 2
    assert all(rollout.reasons for rollout in rollouts)


def test_training_takes_its_data_set(recorded: Path) -> None:
    run(
        "experiments/train.py",
        "--config=experiments/configs/sim.py",
        "--config.preset=debug",
        "--config.model.name=tiny",
        "--config.rig.tasks=plush",
        "--config.data.cameras=scene",
        f"--config.data.paths={recorded / 'online' / 'rlds'}",
        "--config.data.heldout_fraction=0.0",
        "--config.data.mixture.mode=weight",
        "--config.eval.trials=0",
        f"--workdir={recorded / 'trained'}",
    )
    losses = [line["loss"] for line in read_metrics(recorded / "trained") if "loss" in line]
    assert np.isfinite(losses).all()
    assert len(losses) == 4
