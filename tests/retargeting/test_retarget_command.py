"""experiments/retarget.py from nothing to a report, its refusals, and the view in a browser."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
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
        ("--config.data.heldout_fraction=1.0", "data.heldout_fraction 1.0: expected 0 or more and below 1"),
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


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: np.save(path, synthetic.keypoints_of(np.stack(3 * [synthetic.OPEN]))),
            "100 frames or more .* got 3;",
        ),
        (lambda path: path.write_bytes(b""), "No data left"),
        (lambda path: path.write_text("hello"), "expected a .npy file of key points"),
        (
            lambda path: np.savez(path, a=np.zeros(3)) or path.with_suffix(".npy.npz").rename(path),
            "expected a .npy file of key points",
        ),
        (lambda path: np.save(path, np.array(["a"])), "expected a .npy file of key points"),
    ],
)
def test_a_file_that_is_no_recording_is_named(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path / "glove.npy")
    with pytest.raises(ConfigError, match=rf"glove\.npy: .*{message}"):
        retarget.load_clip(tmp_path / "glove.npy")


def test_two_recordings_of_one_name_are_refused(tmp_path: Path) -> None:
    clip = synthetic.free_motion(np.random.default_rng(0), synthetic.Person(), 10.0, 20.0)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "glove.npy", clip)
    paths = ",".join(f"'{tmp_path / folder / 'glove.npy'}'" for folder in ("a", "b"))
    with pytest.raises(ConfigError, match=r"data\.clips: two recordings have the same name"):
        retarget.main([CONFIG, f"--config.data.clips=({paths})", f"--workdir={tmp_path}"])


def test_what_the_held_out_frames_do_not_show_is_said_in_the_report(tmp_path: Path) -> None:
    angles = synthetic.OPEN + 0.1 * np.sin(np.arange(200) / 7.0)[:, None, None] * (synthetic.FIST - synthetic.OPEN)
    np.save(tmp_path / "glove.npy", synthetic.keypoints_of(angles))
    arguments = [CONFIG, "--config.preset=debug", f"--config.data.clips=('{tmp_path / 'glove.npy'}',)"]
    retarget.main([*arguments, f"--workdir={tmp_path}"])
    scores = json.loads((tmp_path / "report.json").read_text())["results"]["clips"]["glove"]
    assert scores["simulated_dexhand021"]["dexhil"]["pinch_contact"] is None
    assert "not seen" in (tmp_path / "report.html").read_text()


def test_a_view_on_a_port_that_cannot_be_used_is_refused_before_it_is_drawn(workdir: Path, tmp_path: Path) -> None:
    clip = synthetic.free_motion(np.random.default_rng(0), synthetic.Person(), 10.0, 20.0)
    np.save(tmp_path / "glove.npy", clip)
    view = [CONFIG, f"--workdir={workdir}", f"--view={tmp_path / 'glove.npy'}"]
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(ValueError, match=rf"--port {port} cannot be used \(.*in use.*\); choose another"):
            retarget.main([*view, f"--port={port}"])
    with pytest.raises(ValueError, match="--port 99999: expected 1 to 65535"):
        retarget.main([*view, "--port=99999"])


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
    while not page and playing.is_alive():
        try:
            page = urllib.request.urlopen("http://127.0.0.1:8123", timeout=10).read()
        except OSError:
            time.sleep(0.1)
    playing.join()
    assert b"<html" in page
