"""Adapters: nothing at first, the fused weights afterwards, and names and shapes that openpi reads."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dexhil.models.config import PI05, TINY, GemmaConfig
from dexhil.models.lora import fresh_adapters, fuse_adapters, is_adapter, readapt
from dexhil.models.trees import merge_trees
from dexhil.models.vla import bind, init_params
from dexhil.training.partition import path_name
from tests.models.pure import flow_errors
from tests.tolerances import TINY_VLA, assert_close


def with_adapters(config, lm=2, expert=3, scale=0.5):
    streams = {"lm": (config.lm, lm), "expert": (config.expert, expert)}
    return dataclasses.replace(
        config, **{k: dataclasses.replace(s, lora_rank=r, lora_scale=scale) for k, (s, r) in streams.items()}
    )


ADAPTED = with_adapters(TINY)


@functools.partial(jax.jit, static_argnums=0)
def errors(config, params, inputs):
    noise = jax.random.normal(jax.random.key(1), (2, 1, TINY.chunk, TINY.action_dim))
    return flow_errors(params, config, inputs, noise, jnp.array([[0.2], [0.7]]))


@pytest.fixture(scope="module")
def adapted(random_params):
    return random_params(ADAPTED)


def test_fresh_adapters_change_nothing(tiny):
    _, params, inputs = tiny
    adapted = merge_trees(params, fresh_adapters(ADAPTED, jax.random.key(0)))
    assert_close(errors(ADAPTED, adapted, inputs), errors(TINY, params, inputs), TINY_VLA)


LAYERS = {
    "q_einsum": lambda block, x: block.attn.q_einsum.split_heads(x),
    "kv_einsum": lambda block, x: block.attn.kv_einsum.split_heads(x, 1),
    "attn_vec_einsum": lambda block, x: block.attn.attn_vec_einsum.merge_heads(x.reshape(2, 5, 2, 8)),
    "mlp": lambda block, x: block.mlp(x),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_zero_b_changes_no_bit_of_a_layer(name, adapted):
    """Whole programs may differ in the last bit, since XLA fuses them differently."""
    zeroed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if path[-1].key.endswith("lora_b") else leaf, adapted
    )

    def layer(params, config):
        graph, stacked = nnx.split(bind(params, config).PaliGemma.llm.blocks())
        block = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], stacked))
        return LAYERS[name](block, jax.random.normal(jax.random.key(0), (2, 5, 16)))

    plain = layer(without_adapters(adapted), TINY)
    np.testing.assert_array_equal(layer(zeroed, ADAPTED), plain)
    assert np.abs(layer(adapted, ADAPTED) - plain).max() > 1e-2


def without_adapters(tree):
    return {
        name: without_adapters(leaf) if isinstance(leaf, dict) else leaf
        for name, leaf in tree.items()
        if not is_adapter(name)
    }


def test_fused_weights_act_as_the_adapters_did(adapted, tiny):
    params, inputs = adapted, tiny[2]
    fused = fuse_adapters(params, ADAPTED)
    plain = jax.eval_shape(lambda: init_params(TINY, jax.random.key(0)))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), fused) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), plain
    )
    expected = errors(ADAPTED, params, inputs)
    assert_close(errors(TINY, fused, inputs), expected, 2 * TINY_VLA)  # each weight is rounded once more
    unscaled = fuse_adapters(params, with_adapters(TINY, scale=1.0))
    assert np.abs(errors(TINY, unscaled, inputs) / expected - 1).max() > 1e-2


def test_names_and_shapes_of_the_real_size():
    config = with_adapters(PI05, 16, 32)
    tree = jax.eval_shape(lambda key: fresh_adapters(config, key), jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    shapes = {path_name(path).removeprefix("PaliGemma/llm/layers/"): leaf.shape for path, leaf in leaves}
    assert len(shapes) == 2 * 2 * 5
    assert shapes["attn/q_einsum/lora_a"] == (18, 8, 2048, 16)
    assert shapes["attn/q_einsum/lora_b"] == (18, 8, 16, 256)
    assert shapes["attn/kv_einsum_1/lora_a"] == (18, 2, 1, 1024, 32)
    assert shapes["attn/attn_vec_einsum/lora_a"] == (18, 8, 256, 16)
    assert shapes["attn/attn_vec_einsum/lora_b"] == (18, 8, 16, 2048)
    assert shapes["mlp/gating_einsum_lora_b"] == (18, 2, 16, 16384)
    assert shapes["mlp_1/linear_lora_a"] == (18, 4096, 32)


def test_other_adapters_begin_where_the_earlier_ones_ended(adapted):
    params = adapted
    assert readapt(params, ADAPTED, ADAPTED, jax.random.key(0)) is params
    wanted = with_adapters(TINY, lm=0, expert=1)
    moved = readapt(params, ADAPTED, wanted, jax.random.key(0))
    layers = moved["PaliGemma"]["llm"]["layers"]
    assert set(layers["mlp"]) == {"gating_einsum", "linear"}
    assert layers["mlp_1"]["linear_lora_a"].shape == (2, 32, 1)
    for one, other in zip(
        jax.tree.leaves(fuse_adapters(moved, wanted)), jax.tree.leaves(fuse_adapters(params, ADAPTED)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_negative_rank_is_refused():
    with pytest.raises(ValueError, match="lora_rank -1: expected 0 or more"):
        GemmaConfig(16, 32, lora_rank=-1)
