"""Frozen parameters: chosen by path, left alone bit by bit, without gradient or optimiser state."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.models.config import TINY
from dexhil.models.trees import merge_trees
from dexhil.models.vla import init_params
from dexhil.training import step as step_module
from dexhil.training.checkpoints import CheckpointError, Checkpoints, load_ema_params, load_train_state
from dexhil.training.config import OptimizerConfig, StepConfig
from dexhil.training.optimizer import make_optimizer, schedule
from dexhil.training.partition import cast_frozen, frozen_paths, path_name, split_tree
from dexhil.training.sharding import make_mesh
from dexhil.training.step import make_state, make_train_step, policy_params, start_from
from tests.models.test_lora import ADAPTED
from tests.tolerances import TINY_STEP, assert_close
from tests.training.test_step import WIDTH, make_inputs

LAYERS = "PaliGemma/llm/layers"
OPTIONS = OptimizerConfig(steps=50, optimizer="adamw", warmup_steps=0, learning_rate=0.05)


@functools.cache
def shapes(config):
    return jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))


def names(tree):
    return {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def make_params():
    w = iter(jax.random.split(jax.random.key(7), 4))
    return {
        "PaliGemma": {
            "img": {"kernel": 0.3 * jax.random.normal(next(w), (WIDTH, WIDTH)), "scale": jnp.full(WIDTH, 1 / 3)},
            "mlp": {
                "linear": 0.3 * jax.random.normal(next(w), (WIDTH, WIDTH)),
                "linear_lora_a": 0.3 * jax.random.normal(next(w), (WIDTH, 2)),
                "linear_lora_b": jnp.zeros((2, WIDTH)),
            },
        },
        "head": {"kernel": 0.3 * jax.random.normal(next(w), (WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)},
    }


def loss_fn(params, inputs, key):
    """[B, H] of a chain of layers in bfloat16, an adapted one among them."""
    img, mlp, head = params["PaliGemma"]["img"], params["PaliGemma"]["mlp"], params["head"]
    x = inputs["state"].astype(jnp.bfloat16)
    x = (x @ img["kernel"].astype(x.dtype)) * img["scale"].astype(x.dtype)
    a, b = mlp["linear_lora_a"].astype(x.dtype), mlp["linear_lora_b"].astype(x.dtype)
    x = x + x @ mlp["linear"].astype(x.dtype) + (x @ a) @ b
    predicted = (x @ head["kernel"].astype(x.dtype)).astype(jnp.float32) + head["bias"]
    return jnp.square(predicted[:, None] - inputs["actions"]).mean(axis=-1)


FROZEN = frozen_paths(make_params(), ["PaliGemma"])
OPTIMIZER = make_optimizer(OPTIONS)


@functools.cache
def step(**settings):
    return make_train_step(loss_fn, OPTIMIZER, schedule(OPTIONS), StepConfig(**settings))


def start(**settings):
    return make_state(make_params(), OPTIMIZER, make_mesh(), **{"frozen": FROZEN, **settings})


def run(state, count, ema="device", first=0, **settings):
    for index in range(first, first + count):
        state, _ = step(ema=ema, **settings)(state, make_inputs(index))
    return state


def same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("PaliGemma/img", lambda name: name.startswith("PaliGemma/img/")),
        (f"{LAYERS}/mlp/", lambda name: name.startswith(f"{LAYERS}/mlp/")),
        ("*_einsum/w", lambda name: name.endswith("_einsum/w")),
        ("action_in_proj/kernel", lambda name: name == "action_in_proj/kernel"),
        ("*/pos_embedding", lambda name: name.endswith("pos_embedding")),
    ],
)
def test_a_pattern_names_a_leaf_or_a_folder(pattern, expected):
    assert frozen_paths(shapes(TINY), [pattern]) == {name for name in names(shapes(TINY)) if expected(name)}


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("PaliGemma/imgs", "PaliGemma/img"),
        (f"{LAYERS}/mpl", f"{LAYERS}/mlp"),
        ("action_out_prj/kernel", "action_out_proj/kernel"),
    ],
)
def test_a_pattern_without_a_match_names_the_nearest_path(pattern, nearest):
    with pytest.raises(ValueError, match=rf"no parameter's path matches '.*'; did you mean '{nearest}"):
        frozen_paths(shapes(TINY), ["PaliGemma/img", pattern])


def test_something_must_be_left_to_train():
    with pytest.raises(ValueError, match=r"freeze \['\*'\]: nothing is left to train"):
        frozen_paths(shapes(TINY), ["*"])


def test_adapters_are_trained_and_what_they_adapt_is_not():
    everything, frozen = names(shapes(ADAPTED)), frozen_paths(shapes(ADAPTED), [])
    assert len(frozen) == 10
    assert {f"{LAYERS}/attn/kv_einsum_1/w", f"{LAYERS}/mlp/gating_einsum"} < frozen
    trained = everything - frozen_paths(shapes(ADAPTED), ["PaliGemma"])
    assert {name for name in trained if name.startswith("PaliGemma")} == {n for n in everything if "lora_" in n}


def test_insulation_freezes_the_backbone():
    trained = names(shapes(TINY)) - frozen_paths(shapes(TINY), [], insulated=True)
    assert all("_1" in name or not name.startswith("PaliGemma") for name in trained)
    with pytest.raises(ValueError, match=r"adapters of the language model, such as .*lora_a, would never be trained"):
        frozen_paths(shapes(ADAPTED), [], insulated=True)


def test_two_trees_make_the_whole_again():
    trained, frozen = split_tree(make_params(), FROZEN)
    assert names(frozen) == set(FROZEN)
    assert same_bits(merge_trees(trained, frozen), make_params())


def test_frozen_weights_in_bfloat16_keep_their_norms_and_change_no_loss():
    params = make_params()
    cast = merge_trees(split_tree(params, FROZEN)[0], cast_frozen(split_tree(params, FROZEN)[1], "bfloat16"))
    assert cast["PaliGemma"]["img"]["kernel"].dtype == jnp.bfloat16
    assert cast["PaliGemma"]["img"]["scale"].dtype == jnp.float32
    assert_close(loss_fn(cast, make_inputs(), None), loss_fn(params, make_inputs(), None), TINY_STEP)


def test_frozen_parameters_keep_every_bit_and_have_no_optimiser_state():
    state = run(start(frozen_dtype="bfloat16"), 5)
    begin = start(frozen_dtype="bfloat16")
    assert same_bits(state.frozen, begin.frozen)
    assert names(state.params) == names(make_params()) - FROZEN
    assert not any(same_bits(a, b) for a, b in zip(*map(jax.tree.leaves, (state.params, begin.params)), strict=True))
    trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * trained
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}


def test_no_gradient_of_a_frozen_weight_is_computed():
    """Each of 5 weights once forwards; backwards once for each that is trained, and each input with such before it."""
    programs = [
        step().lower(make_state(make_params(), OPTIMIZER, make_mesh(), frozen=frozen), make_inputs()).as_text()
        for frozen in (FROZEN, ())
    ]
    counts = [text.count("stablehlo.dot_general") for text in programs]
    assert counts == [5 + 3 + 2, 5 + 5 + 4]


def test_averages_on_the_host_are_those_on_the_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(step_module, "EMA_EVERY", 1)
    device, host = run(start(), 6), run(start(ema="host"), 6, ema="host")
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(host.ema_params)} == {"pinned_host"}
    of_device, of_host = (jax.tree.leaves((state.params, state.ema_params)) for state in (device, host))
    for one, other in zip(of_device, of_host, strict=True):
        assert_close(one, other, TINY_STEP)


def test_averages_on_the_host_follow_every_so_many_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(step_module, "EMA_EVERY", 3)
    state = run(start(ema="host"), 5, ema="host", ema_decay=0.9)
    begin, third = start(), run(start(), 3)
    decay = np.prod([min(0.9, (1 + n) / (10 + n)) for n in range(3)])
    expected = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, begin.params, third.params)
    for one, other in zip(*map(jax.tree.leaves, (state.ema_params, expected)), strict=True):
        assert_close(one, other, TINY_STEP)


@pytest.mark.parametrize("ema", ["device", "host", "off"])
def test_a_checkpoint_holds_what_a_policy_loads_and_resumes(ema, tmp_path, meta):
    state = run(start(ema=ema, frozen_dtype="bfloat16"), 3, ema=ema)
    expected = jax.tree.map(np.array, policy_params(state))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, meta)
    assert same_bits(load_ema_params(tmp_path), expected)
    restored = load_train_state(tmp_path, start(ema=ema, frozen_dtype="bfloat16"))
    for one, other in zip(*map(jax.tree.leaves, (restored, state)), strict=True):
        assert one.sharding == other.sharding
        np.testing.assert_array_equal(one, other)
    assert same_bits(run(restored, 2, ema, 3), run(state, 2, ema, 3))


def test_averages_can_be_turned_on_and_off_between_runs(tmp_path, meta):
    state = run(start(), 3)
    params, ema = (jax.tree.map(np.array, tree) for tree in (state.params, state.ema_params))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, meta)
        checkpoints.wait()
        off = load_train_state(tmp_path, start(ema="off"))
        assert off.ema_params is None
        assert same_bits(off.params, params)
        assert not same_bits(params, ema)
        checkpoints.save(dataclasses.replace(off, step=off.step + 1), meta)
    on = load_train_state(tmp_path, start())
    assert same_bits(on.params, params)
    assert same_bits(on.ema_params, params)
    assert run(on, 1).step == 5  # parameters and averages share no buffer: both can be donated


def test_other_freezing_than_the_checkpoint_s_is_named(tmp_path, meta):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(run(start(), 1), meta)
    with pytest.raises(CheckpointError, match=r"PaliGemma/img/kernel: the checkpoint has nothing, the configuration"):
        load_train_state(tmp_path, start(frozen=FROZEN - {"PaliGemma/img/kernel"}))
    with pytest.raises(CheckpointError, match=r"head/bias: the checkpoint has \(3,\), the configuration needs nothing"):
        load_train_state(tmp_path, start(frozen=FROZEN | {"head/bias"}))


@pytest.mark.parametrize("ema", ["device", "host", "off"])
def test_a_run_starts_from_another_s_parameters(ema):
    other = jax.tree.map(lambda leaf: leaf + 1, make_params())
    state = start_from(other, start(ema=ema, frozen_dtype="bfloat16"))
    expected = merge_trees(split_tree(other, FROZEN)[0], cast_frozen(split_tree(other, FROZEN)[1], "bfloat16"))
    assert same_bits(policy_params(state), expected)
    run(state, 1, ema)
    assert same_bits(other, jax.tree.map(lambda leaf: leaf + 1, make_params()))  # donated copies, not these


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema": "cpu"}, r"ema 'cpu' is not known.*\['device', 'host', 'off'\]"),
        ({"accumulation": 0}, "accumulation 0: expected at least 1"),
    ],
)
def test_bad_averages_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        StepConfig(**settings)
