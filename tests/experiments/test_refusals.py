"""What cannot work is refused in one line before anything is trained, loaded or moved."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dexhil.config import ConfigError, load_config
from dexhil.models.config import TINY
from dexhil.training.checkpoints import CheckpointError
from experiments import eval, hil, serve
from experiments.arms import get_arm
from experiments.benchmarks.random_policy import save_random_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "random"
    save_random_checkpoint(run, TINY)
    return run


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rig.control_hz=10", "the checkpoint acts at 20 Hz, the rig at 10 Hz"),
        ("rig.cameras=scene", r"needs cameras \['wrist'\], rig.cameras are \['scene'\]"),
        ("rig.cameras=scene,wrist,left", r"rig.cameras: 'left' is not known"),
        ("rig.cameras=scene,wrist,scene", r"rig.cameras \('scene', 'wrist', 'scene'\): expected .* each once"),
        ("rig.tasks=()", r"rig.tasks \(\): expected at least one"),
        ("rig.tasks=plush,tisue", "task 'tisue' is not known; did you mean 'tissue'"),
        ("rig.difficulty=2", "difficulty"),
        ("rig.image_size=8", "images of 16 pixels, the rig's have 8"),
        ("rig.image_size=100000", "rig.image_size 100000: expected at most 2048"),
        ("rig.robot=ur5", "robot 'ur5' is not known; did you mean 'fr3_dexhand021'"),
        ("eval.execute_steps=17", "eval.execute_steps 17: expected 1 to 16, the policy's chunk"),
        ("eval.execute_steps=0", "eval.execute_steps 0: expected at least 1"),
    ],
)
def test_an_evaluation_that_cannot_work_is_refused_in_this_process(checkpoint, tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        eval.main(
            [f"--checkpoint={checkpoint}", f"--workdir={tmp_path}", "--config.preset=debug", f"--config.{setting}"]
        )
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_damaged_checkpoint_is_named_before_the_workers_start(tmp_path):
    run = tmp_path / "damaged"
    save_random_checkpoint(run, TINY)
    largest = max((run / "checkpoints/0/ema").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(largest.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"damaged, ema/.* bytes and CRC"):
        eval.main([f"--checkpoint={run}", f"--workdir={tmp_path / 'out'}", "--config.preset=debug"])


def test_no_trials_are_no_evaluation(checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        eval.main([f"--checkpoint={checkpoint}", f"--workdir={tmp_path}", "--trials=0"])
    assert "--trials: 0: expected at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("port", [99999, -1])
def test_a_port_that_is_none_is_named_before_the_checkpoint_is_read(port, tmp_path):
    with pytest.raises(ConfigError, match=f"--port {port}: expected 0 .* to 65535"):
        serve.main([f"--checkpoint={tmp_path}", f"--port={port}"])


def test_a_taken_port_is_named_before_the_checkpoint_is_read(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port}: cannot listen there \(Address already in use\)"):
            serve.main([f"--checkpoint={tmp_path}", f"--port={port}"])


@pytest.mark.parametrize(
    ("settings", "arm", "message"),
    [
        ([], "sirius", "hil.demonstrations 30: arm 'sirius' needs no more of them than hil.per_round 10"),
        (["hil.per_round=30", "data.mixture.p_star=0.3"], "sirius", "mode 'sirius' has p_star 0.5, got 0.3"),
        (["data.mixture.p_star=0.3"], "iwr", "mode 'iwr' has p_star 0.5, got 0.3"),
        (["data.control_hz=10"], "dexhil", "the checkpoint acts at 10 Hz, the rig at 20 Hz"),
        (["data.robot=xarm7"], "dexhil", "none of robot 'xarm7'"),
        (["eval.execute_steps=17"], "dexhil", "eval.execute_steps 17: expected 1 to 16"),
    ],
)
def test_a_study_that_cannot_end_does_not_begin(settings, arm, message):
    chosen = [f"--config.{setting}" for setting in settings]
    config, _ = load_config(["--config=experiments/configs/hil_sim.py", *chosen])
    with pytest.raises(ValueError, match=message):
        hil.check_settings(config, {arm: get_arm(arm)})


def test_a_study_with_enough_rollouts_may_use_every_arm():
    config, _ = load_config(["--config=experiments/configs/hil_sim.py", "--config.hil.per_round=30"])
    hil.check_settings(config, {arm: get_arm(arm) for arm in ("dexhil", "sirius", "iwr", "offline")})
