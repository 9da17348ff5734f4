"""experiments/retarget.py from nothing to a report, its refusals, and the view in a browser."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from dexhil.config import ConfigError
from dexhil.reports.retargeting import GOALS
from dexhil.retargeting import runtime, synthetic, training
from dexhil.retargeting.kinematics import CanonicalHand
from dexhil.retargeting.view import show
from experiments import retarget
from experiments.configs import retarget_hand

CONFIG = "--config=experiments/configs/retarget.py"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retarget")
    retarget.main([CONFIG, "--config.preset=debug", f"--workdir={folder}"])
    return folder


def test_the_command_leaves_a_retargeter_and_its_scores(workdir: Path) -> None:
    scores = json.loads((workdir / "report.json").read_text())["results"]["clips"]["stranger"]
    assert set(scores["simulated_dexhand021"]["dexhil"]) == set(GOALS)
    model = runtime.load(workdir / "retargeter.npz")
    points = synthetic.keypoints_of(synthetic.FIST)
    assert runtime.Retargeter(model)(points).shape == (12,)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.data.clips=none.npy", "no such recording: none.npy"),
        ("--config.hand.urdf=none.urdf", "hand.urdf: no such file: none.urdf"),
        ("--config.train.widht=3", "nearest: --config.train.width"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        retarget.main([CONFIG, "--config.preset=debug", override, f"--workdir={tmp_path}"])


def test_a_recording_in_millimetres_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "glove.npy"
    np.save(path, 1000 * synthetic.keypoints_of(np.stack([synthetic.OPEN, synthetic.FIST])))
    with pytest.raises(ConfigError, match=r"glove\.npy.*divide by 1000"):
        retarget.load_clip(path)


def test_the_ends_of_five_stretches_are_held_out() -> None:
    held = retarget.held_out(100, 0.25)
    np.testing.assert_array_equal(np.flatnonzero(held), [20 * k + j for k in range(5) for j in range(15, 20)])
    assert not retarget.held_out(100, 0.0).any()


def test_a_hand_of_a_file_follows_tips_and_the_presets_hold() -> None:
    config, usual = retarget_hand.get_config("debug"), training.TrainingConfig()
    assert (config.train.cover, config.train.pinch, config.train.speed) == (0.0, usual.pinch, usual.speed)
    assert config.train.steps == (100, 100)


def test_the_view_plays_in_a_browser(workdir: Path) -> None:
    model = runtime.load(workdir / "retargeter.npz")
    clip = synthetic.keypoints_of(np.stack([synthetic.OPEN, synthetic.FIST]))
    robot = CanonicalHand(model.hand)
    playing = threading.Thread(
        target=show,
        args=(robot, clip, retarget.mapping(model, clip)),
        kwargs={"scale": 1.5, "port": 8123, "frames": 300},
    )
    playing.start()
    page = b""
    for _ in range(50):
        try:
            page = urllib.request.urlopen("http://127.0.0.1:8123", timeout=10).read()
            break
        except OSError:
            time.sleep(0.1)
    playing.join()
    assert b"<html" in page
