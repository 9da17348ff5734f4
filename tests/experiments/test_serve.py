"""The command that serves a checkpoint, driven by our client and by eval.py; a soak of a few seconds."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from dexhil.commands import ConfigError
from dexhil.models.config import TINY
from dexhil.policy import Policy
from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.schema import ActionChunk
from dexhil.serving.client import PolicyClient
from dexhil.serving.keys import VARIABLE
from dexhil.training.checkpoints import CheckpointError
from experiments import eval, serve
from experiments.benchmarks import server as benchmark
from experiments.benchmarks.random_policy import random_observation, save_random_checkpoint
from tests.experiments.commands import report_of, serving
from tests.serving import fakes

QUESTIONS = 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "random"
    save_random_checkpoint(run, TINY)
    return run


@pytest.fixture(scope="module")
def policy(checkpoint: Path) -> Policy:
    return Policy.load(checkpoint)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def uri(checkpoint: Path, workdir: Path) -> Iterator[str]:
    """Of the command in a process of its own, ended by SIGTERM; its report is checked then."""
    with serving(checkpoint, workdir) as (process, uri):
        yield uri
    assert process.returncode == 0
    results = report_of(workdir)["results"]
    assert results["requests"] >= QUESTIONS
    assert results["failures"] == 0
    assert results["total_ms"]["median"] <= results["total_ms"]["p99"]
    assert report_of(workdir)["command"] == "serve"


def test_the_server_says_what_the_checkpoint_is(uri: str, checkpoint: Path, policy: Policy) -> None:
    with PolicyClient(uri) as client:
        info = client.info
    assert (info.robot, info.control_hz, info.chunk, info.image_size) == ("fr3_dexhand021", 20.0, 16, 16)
    assert info.joint_names == FR3_DEXHAND021.joint_names
    assert info.checkpoint == policy.checkpoint_id
    assert info.normalization == policy.meta.normalization.hash()


def test_the_client_gives_what_the_policy_gives_bit_for_bit(uri: str, policy: Policy) -> None:
    rng = np.random.default_rng(0)
    with PolicyClient(uri) as client:
        for seed in range(QUESTIONS):
            observation = random_observation(rng, policy.meta)
            served, here = client.infer(observation, seed=seed), policy.infer(observation, seed=seed)
            np.testing.assert_array_equal(served.actions, here.actions, strict=True)
            assert served.timestamp == here.timestamp


def test_eval_through_the_server_gives_the_same_trials(uri: str, checkpoint: Path, tmp_path: Path) -> None:
    settings = ["--config.preset=debug", "--config.rig.tasks=plush", "--config.eval.max_seconds=1", "--trials=2"]
    eval.main([f"--server={uri}", f"--workdir={tmp_path / 'served'}", *settings])
    eval.main([f"--checkpoint={checkpoint}", f"--workdir={tmp_path / 'here'}", *settings])
    served, here = (report_of(tmp_path / name)["results"] for name in ("served", "here"))
    assert served == here
    for last_moment in (tmp_path / "here").glob("*.jpg"):
        assert last_moment.read_bytes() == (tmp_path / "served" / last_moment.name).read_bytes()
    assert report_of(tmp_path / "served")["lineage"]["checkpoint"] == "random/0"


def test_a_soak_counts_right_and_wrong_answers(uri: str, policy: Policy) -> None:
    latencies, wrong = benchmark.ask(uri, policy, 0.5, 1)
    assert latencies
    assert wrong == 0
    other = types.SimpleNamespace(
        meta=policy.meta, infer=lambda seen, seed: ActionChunk(policy.infer(seen, seed=seed).actions + 1, 0.0)
    )
    latencies, wrong = benchmark.ask(uri, cast(Policy, other), 0.5, 1)
    assert wrong == len(latencies) > 0


def test_eval_through_a_server_refuses_another_robot_and_a_step(tmp_path: Path) -> None:
    with fakes.running() as server:
        with pytest.raises(ConfigError, match=r"trained on robot 'stick', rig\.robot is 'fr3_dexhand021'"):
            eval.main([f"--server={server.uri}", f"--workdir={tmp_path}"])
        with pytest.raises(ConfigError, match="--step 3: a server has chosen its checkpoint; leave it out"):
            eval.main([f"--server={server.uri}", "--step=3"])


def test_the_key_stays_off_the_command_line_and_out_of_the_report(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command in this process: told to stop at once, it still serves, reports and ends."""
    monkeypatch.setenv(VARIABLE, "a-key-of-the-tests-0123")
    monkeypatch.setattr(serve, "stop_requested", lambda what: contextlib.nullcontext(lambda: True))
    serve.main([f"--checkpoint={checkpoint}", "--host=0.0.0.0", "--port=0", f"--workdir={tmp_path}"])
    shown = capsys.readouterr().out
    assert "key      needed, header Authorization: Api-Key" in shown
    assert "robot    fr3_dexhand021: state [19], actions [16, 19], absolute joint targets in rad, 20 Hz" in shown
    assert "a-key-of-the-tests-0123" not in shown + (tmp_path / "report.json").read_text()


def test_beyond_this_machine_a_key_is_asked_for_before_anything_is_loaded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ValueError, match=r"host '0.0.0.0': others can reach it, so a key is required"):
        serve.main([f"--checkpoint={tmp_path / 'nothing'}", "--host=0.0.0.0"])


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected the workdir of a training run"):
        serve.main([f"--checkpoint={tmp_path / 'nothing'}"])
