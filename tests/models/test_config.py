"""Every named size: parameter counts, shapes of all variants, errors that teach the fix."""

import dataclasses
import json

import jax
import pytest

from dexhil.models.config import (
    CONFIGS,
    EMBEDDED,
    PI0,
    PI05,
    TINY,
    AttentionConfig,
    GemmaConfig,
    VLAConfig,
    get_model_config,
)
from dexhil.models.sampling import sample_actions
from dexhil.models.vla import count_params, flow_loss, init_params

SIGLIP_SO400M = 412_442_352  # without its pooling head
GEMMA_2B = 2_506_172_416 + 1152 * 2048  # 256,000 rows, and PaliGemma's 1,152 more
PALIGEMMA = 2_923_335_408


def _shapes(config):
    return jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _expert_leaves(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [leaf for path, leaf in leaves if any(part.key.endswith("_1") for part in path)]


def test_the_real_size_has_the_published_parameter_counts():
    tree = _shapes(PI0)["PaliGemma"]
    expert = sum(leaf.size for leaf in _expert_leaves(tree["llm"]))
    assert expert == 311_464_960
    assert _size(tree["img"]) == SIGLIP_SO400M + (1152 + 1) * 2048
    assert _size(tree["llm"]) - expert == GEMMA_2B
    assert _size(tree) - expert == PALIGEMMA


def test_paths_and_shapes_of_the_real_size_are_openpis():
    tree = _shapes(PI05)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
    layers = "PaliGemma/llm/layers"
    assert shapes[f"{layers}/attn/q_einsum/w"] == (18, 8, 2048, 256)
    assert shapes[f"{layers}/attn/kv_einsum_1/w"] == (18, 2, 1, 1024, 256)
    assert shapes[f"{layers}/attn/attn_vec_einsum_1/w"] == (18, 8, 256, 1024)
    assert shapes[f"{layers}/mlp_1/gating_einsum"] == (18, 2, 1024, 4096)
    assert shapes[f"{layers}/mlp/linear"] == (18, 16384, 2048)
    assert shapes[f"{layers}/pre_ffw_norm_1/Dense_0/kernel"] == (18, 1024, 3072)
    assert shapes["PaliGemma/llm/embedder/input_embedding"] == (257152, 2048)
    assert shapes["PaliGemma/img/embedding/kernel"] == (14, 14, 3, 1152)
    assert shapes["PaliGemma/img/pos_embedding"] == (1, 256, 1152)
    block = "PaliGemma/img/Transformer/encoderblock"
    assert shapes[f"{block}/MultiHeadDotProductAttention_0/query/kernel"] == (27, 1152, 16, 72)
    assert shapes[f"{block}/MultiHeadDotProductAttention_0/out/kernel"] == (27, 16, 72, 1152)
    assert shapes["action_in_proj/kernel"] == (32, 1024)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_size_maps_a_batch_to_a_chunk(name):
    config = CONFIGS[name]
    float32, int32, flag = jax.numpy.float32, jax.numpy.int32, jax.numpy.bool_
    shape, side = jax.ShapeDtypeStruct, config.image_size
    inputs = {
        "images": {camera: shape((2, side, side, 3), float32) for camera in config.cameras},
        "tokens": shape((2, config.max_tokens), int32),
        "token_mask": shape((2, config.max_tokens), flag),
        "state": shape((2, config.state_dim), float32),
        "actions": shape((2, config.chunk, config.action_dim), float32),
    }
    loss = jax.eval_shape(lambda p, x, k: flow_loss(p, config, x, k, flow_samples=3), _shapes(config), inputs, _key())
    chunk = jax.eval_shape(lambda p, x, k: sample_actions(p, config, x, k), _shapes(config), inputs, _key())
    assert (loss.shape, loss.dtype) == ((2, config.chunk), float32)
    assert (chunk.shape, chunk.dtype) == ((2, config.chunk, config.action_dim), float32)


def _key():
    return jax.eval_shape(lambda: jax.random.key(0))


def test_the_embedded_size_is_small_enough_for_two_cores():
    assert count_params(EMBEDDED) < 1_000_000


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_survives_json(name):
    assert VLAConfig.from_dict(json.loads(json.dumps(CONFIGS[name].to_dict()))) == CONFIGS[name]


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ValueError, match="'embeded' is not known; did you mean 'embedded'"):
        get_model_config("embeded")
    with pytest.raises(ValueError, match=r"model\.chunks: there is no such setting; did you mean 'chunk'"):
        VLAConfig.from_dict(TINY.to_dict() | {"chunks": 8})
    with pytest.raises(ValueError, match=r"model\.lm: GemmaConfig.* missing 1 required .*'mlp_dim'"):
        VLAConfig.from_dict(TINY.to_dict() | {"lm": {"width": 8}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "pi1"}, r"variant 'pi1' is not known; .*\['pi0', 'pi05'\]"),
        ({"state_input": "words"}, "state_input 'words' is not known"),
        ({"image_size": 60}, "image_size: expected a positive multiple of the pixels of a vision token = 8, got 60"),
        ({"attention": AttentionConfig(2, 3, 2, 8)}, "num_heads: expected a positive multiple of num_kv_heads = 2"),
        ({"expert": GemmaConfig(15, 32)}, "expert.width: expected a positive multiple of 2"),
        ({"action_width": 8}, "action_width: expected 0 or at least action_dim 19, got 8"),
    ],
)
def test_a_size_that_cannot_be_built_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rtc_max_delay": 9}, "rtc_max_delay: expected 0 to half the chunk of 16, got 9"),
        ({"rtc_max_delay": -1}, "rtc_max_delay: expected 0 to half the chunk of 16, got -1"),
        ({"rtc_max_delay": 4, "variant": "pi0"}, "rtc_max_delay: 4 needs a time per action, which variant 'pi05' has"),
    ],
)
def test_delays_that_cannot_be_trained_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **settings)
