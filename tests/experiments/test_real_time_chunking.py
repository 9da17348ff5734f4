"""What the commands check before they train or evaluate with real-time chunking."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.commands import ConfigError
from dexhil.models.tokenizer import Tokenizer, train_tokenizer
from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.training.checkpoints import CheckpointError, CheckpointMeta, Checkpoints
from dexhil.training.step import TrainState
from dexhil.transforms.normalization import Normalization, NormStats
from experiments.configs import sim
from experiments.eval import check_acts
from experiments.train import load_checked_meta, model_config

DATA: Any = SimpleNamespace(robot="fr3_dexhand021")


def make_config(**eval_settings: Any) -> Any:
    config = sim.get_config("debug")
    config.eval.update(eval_settings)
    return config


def check(meta: CheckpointMeta, **eval_settings: Any) -> str:
    return check_acts(make_config(**eval_settings), meta.interface, meta.model)


@pytest.fixture(scope="module")
def meta() -> CheckpointMeta:
    state, actions = (NormStats(np.zeros(n, np.float32), np.ones(n, np.float32)) for n in (21, 18))
    stats, tokenizer = Normalization(state, actions, (), "ee_delta"), train_tokenizer(["Pull out a napkin"])
    model = model_config(make_config(), stats, Tokenizer(tokenizer))
    return CheckpointMeta(DATA.robot, 20.0, model, stats, tokenizer, {}, {}, FR3_DEXHAND021.joint_names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"latency_steps": 9, "handover": "rtc"}, r"\(eval.rtc 'auto'\) bridges at most 8 steps; take less, or")],
)
def test_latency_that_cannot_be_emulated_is_named(meta, settings, message):
    with pytest.raises(ConfigError, match=message):
        check(meta, **settings)


def test_any_latency_can_be_met_without_chunking_and_what_was_trained_with_it(meta):
    assert check(meta, latency_steps=40) == "none"
    assert check(meta, latency_steps=8, handover="rtc") == "auto"
    trained = dataclasses.replace(meta, model=dataclasses.replace(meta.model, rtc_max_delay=4))
    check(trained, latency_steps=4, handover="rtc")
    with pytest.raises(ConfigError, match="bridges at most 4 steps"):
        check(trained, latency_steps=5, handover="rtc")
    check(trained, latency_steps=5, handover="rtc", rtc="guided")


def test_a_new_run_may_begin_to_train_for_chunking_and_a_resumed_one_may_not(meta, tmp_path):
    state = TrainState(params={"w": jnp.zeros(2)}, opt_state={}, ema_params={"w": jnp.zeros(2)}, step=jnp.int32(1))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, meta)
    config = make_config()
    assert load_checked_meta(config, tmp_path, DATA).model == meta.model
    config.train.rtc_max_delay = 4
    with pytest.raises(CheckpointError, match=r"model.rtc_max_delay: the checkpoint has 0, the configuration 4"):
        load_checked_meta(config, tmp_path, DATA)
    begun = model_config(config, meta.normalization, Tokenizer(meta.tokenizer))
    assert begun.base() == meta.model.base()
