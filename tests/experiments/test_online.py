"""The person of an online round, made from the config."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from dexhil.retargeting import network, runtime
from dexhil.retargeting.hand import simulated_dexhand021
from dexhil.schema import ARM_DOF
from dexhil.sim.rig import SimRig
from experiments.online import make_person, read_online
from experiments.settings import SupervisorConfig

ALWAYS = {"false_alarms_per_s": 1e3, "reaction_s": (0.0, 0.0)}


def test_the_persons_hand_goes_through_the_retargeter_of_the_config(tmp_path: Path) -> None:
    hand = simulated_dexhand021()
    runtime.save(runtime.Model(hand, network.init(np.random.default_rng(0), hand, 16), {}), tmp_path / "r.npz")
    settings = SupervisorConfig(**ALWAYS)
    rig, shown = SimRig(cameras=()), {}
    for path in ("", str(tmp_path / "r.npz")):
        rig.reset(task="plush", seed=0)
        command = make_person(rig, 0, dataclasses.replace(settings, retargeter=path)).tick(rig.command)
        assert command is not None
        shown[path] = command.q_hand
    assert shown[""] == pytest.approx(rig.command[ARM_DOF:], abs=0.05)
    assert np.abs(shown[str(tmp_path / "r.npz")] - shown[""]).max() > 0.1


def test_rollouts_that_failed_are_read_with_the_persons_time(tmp_path: Path) -> None:
    """But not those whose recording was never finished."""
    (tmp_path / "facts").mkdir()
    told = {"task": "plush", "seconds": 9.0, "control": [[0, 4, "policy"], [4, 9, "person"]], "reasons": ["missed"]}
    for name, success in (("saved", True), ("lost", False), ("unfinished", True)):
        facts = {**told, "seed": 1, "success": success, "engaged": [[0, 0]], "released": []}
        (tmp_path / "facts" / f"{name}.json").write_text(json.dumps(facts))
        if name != "unfinished":
            (tmp_path / "episodes" / name).mkdir(parents=True)
    found = read_online(tmp_path, "dexhil", 2)
    assert [(episode.success, episode.arm, episode.round) for episode in found] == [
        (False, "dexhil", 2),
        (True, "dexhil", 2),
    ]


def test_a_retargeter_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"none\.npz: no such file; train a retargeter"):
        make_person(SimRig(cameras=()), 0, SupervisorConfig(retargeter="none.npz"))
