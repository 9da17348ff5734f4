"""Saving and restoring: every bit comes back, damage and mismatches are named, a killed save costs nothing."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.models.config import TINY
from dexhil.training.checkpoints import (
    CheckpointError,
    CheckpointMeta,
    Checkpoints,
    check_compatible,
    find_step,
    load_ema_params,
    load_meta,
    load_train_state,
)
from dexhil.training.config import OptimizerConfig
from dexhil.training.optimizer import make_optimizer
from dexhil.training.step import TrainState, init_state

OPTIMIZER = make_optimizer(OptimizerConfig(steps=10, warmup_steps=1))


def make_state(step: int, width: int = 3) -> TrainState:
    params = {"head": {"kernel": jax.random.normal(jax.random.key(step), (width, 5)), "bias": jnp.ones(5)}}
    state = init_state(params, OPTIMIZER)
    ema = jax.tree.map(lambda x: 2 * x, params)
    return dataclasses.replace(state, step=jnp.int32(step), ema_params=ema)


@pytest.fixture
def run(tmp_path, meta) -> Path:
    with Checkpoints(tmp_path / "run", keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(make_state(step), meta)
    return tmp_path / "run"


def same_bits(left, right) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


def test_every_bit_comes_back(run, meta):
    restored = load_train_state(run, make_state(0))
    assert jax.tree.structure(restored) == jax.tree.structure(make_state(3))
    assert same_bits(restored, make_state(3))
    assert same_bits(load_ema_params(run), make_state(3).ema_params)
    assert load_meta(run).to_json() == meta.to_json()


def test_the_newest_are_kept_and_each_can_be_chosen(run):
    with Checkpoints(run) as checkpoints:
        assert checkpoints.steps() == [2, 3]
    assert same_bits(load_train_state(run, make_state(0), step=2), make_state(2))


def test_saving_a_step_twice_keeps_the_first(run, meta):
    with Checkpoints(run) as checkpoints:
        checkpoints.save(dataclasses.replace(make_state(5), step=jnp.int32(3)), meta)
    assert same_bits(load_train_state(run, make_state(0)), make_state(3))


def test_the_state_may_be_donated_right_after_saving(tmp_path, meta):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0, state), donate_argnums=0)
    large = make_state(1, width=200_000)
    expected = jax.tree.map(np.array, large)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(large, meta)
        jax.block_until_ready(overwrite(large))
    assert same_bits(load_train_state(tmp_path, make_state(0, width=200_000)), expected)


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: no folder 'checkpoints' there; expected the workdir"):
        find_step(tmp_path / "nowhere")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        load_meta(tmp_path)


def test_an_unknown_step_lists_those_that_exist(run):
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7; the steps there are \[2, 3\]"):
        load_meta(run, 7)


def _largest_file(run: Path, item: str) -> Path:
    return max((f for f in (run / "checkpoints/3" / item).rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("spoil", "message"), [(_truncate, "bytes and CRC"), (_flip_a_bit, "bytes and CRC"), (Path.unlink, "is missing")]
)
@pytest.mark.parametrize("item", ["train", "ema", "meta"])
def test_damage_is_named_and_the_step_before_still_loads(run, item, spoil, message):
    load = {"train": lambda step: load_train_state(run, make_state(0), step), "meta": lambda step: load_meta(run, step)}
    load["ema"] = lambda step: load_ema_params(run, step)
    spoil(_largest_file(run, item))
    with pytest.raises(CheckpointError, match=rf"checkpoints/3: damaged, {item}/.*{message}.*use another step"):
        load[item](3)
    load[item](2)


def test_lost_checksums_are_named(run):
    (run / "checkpoints/3/checksums.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"damaged, checksums.json cannot be read"):
        load_meta(run)


def test_other_shapes_are_named(run):
    with pytest.raises(CheckpointError, match=r"head/kernel: the checkpoint has \(3, 5\), .* needs \(4, 5\)"):
        load_train_state(run, make_state(0, width=4))


@pytest.mark.parametrize(
    ("robot", "changes", "message"),
    [
        ("widowx", {}, "robot: the checkpoint has 'fr3_dexhand021', the configuration 'widowx'"),
        ("fr3_dexhand021", {"action_dim": 7}, "model.action_dim: the checkpoint has 19, the configuration 7"),
        ("fr3_dexhand021", {"cameras": ("scene",)}, r"model.cameras: .*\('scene', 'wrist'\).* \('scene',\)"),
    ],
)
def test_another_robot_or_model_is_named(meta, robot, changes, message):
    with pytest.raises(CheckpointError, match=message):
        check_compatible(
            meta,
            robot=robot,
            action_space=meta.normalization.action_space,
            model=dataclasses.replace(TINY, **changes),
            control_hz=meta.control_hz,
        )


def test_another_action_space_is_named(meta):
    other = "ee_delta" if meta.normalization.action_space == "recorded" else "recorded"
    with pytest.raises(CheckpointError, match=f"action_space: .* the configuration '{other}'"):
        check_compatible(meta, robot="fr3_dexhand021", action_space=other, model=TINY, control_hz=20.0)


def test_the_same_robot_and_model_pass(meta):
    check_compatible(
        meta, robot="fr3_dexhand021", action_space=meta.normalization.action_space, model=TINY, control_hz=20.0
    )


_SAVE_FOREVER = """
import sys, pathlib
sys.path.insert(0, {tests!r})
import test_checkpoints as here
from dexhil.training.checkpoints import Checkpoints, load_meta
run = pathlib.Path({run!r})
meta = load_meta(run)
with Checkpoints(run, keep=3) as checkpoints:
    for step in range(4, 10_000):
        checkpoints.save(here.make_state(step, width=200_000), meta)
        print(step, flush=True)
"""


def test_a_killed_save_leaves_the_earlier_ones(run):
    code = _SAVE_FOREVER.format(tests=str(Path(__file__).parent), run=str(run))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline()
    time.sleep(0.01)  # the third save is under way
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    newest = int(find_step(run).name)
    assert newest >= 3
    expected = make_state(newest, width=3 if newest == 3 else 200_000)
    assert same_bits(load_train_state(run, expected), expected)
    with Checkpoints(run) as checkpoints:  # the next save clears away what the killed one left
        checkpoints.save(make_state(newest + 1), load_meta(run))
    assert int(find_step(run).name) == newest + 1
    assert not [path for path in (run / "checkpoints").iterdir() if not path.name.isdigit()]


def test_more_tokens_may_be_read_and_another_rate_may_not(meta):
    space = meta.normalization.action_space
    longer = dataclasses.replace(TINY, max_tokens=99)
    check_compatible(meta, robot="fr3_dexhand021", action_space=space, model=longer, control_hz=20.0)
    with pytest.raises(CheckpointError, match=r"control_hz: the checkpoint has 20.0, the configuration 10.0"):
        check_compatible(meta, robot="fr3_dexhand021", action_space=space, model=TINY, control_hz=10.0)


def test_names_of_joints_travel_and_what_an_older_checkpoint_lacks_is_named(meta):
    named = dataclasses.replace(meta, joint_names=("a", "b"))
    assert CheckpointMeta.from_json(named.to_json()).interface.joint_names == ("a", "b")
    older = {name: value for name, value in named.to_json().items() if name != "joint_names"}
    assert CheckpointMeta.from_json(older).joint_names == ()
    for name in ("control_hz", "robot"):
        with pytest.raises(CheckpointError, match=f"says nothing about {name}; train it again"):
            CheckpointMeta.from_json({**older, name: None})
