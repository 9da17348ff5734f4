"""The loader: every spelling gives the same bits, nothing missing or surplus passes, memory stays near one copy."""

import dataclasses
import json
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest

from dexhil.models.config import PI0, PI05_TINY, TINY, GemmaConfig
from dexhil.models.weights.load import load_params
from dexhil.models.weights.sources import WeightsError
from tests.models.weight_files import (
    SPELLINGS,
    flat,
    huggingface_arrays,
    of_their_convention,
    write_npz,
    write_orbax,
    write_safetensors,
)

SMALL = {
    field.name: getattr(PI05_TINY, field.name)
    for field in dataclasses.fields(PI05_TINY)
    if field.name not in ("variant", "state_input", "max_tokens")
}
SMALL_PI0 = dataclasses.replace(PI0, **SMALL)
VARIANTS = {"pi0": SMALL_PI0, "pi05": PI05_TINY}
EXPERT = ("llm/.*_1/", "^(action|state|time)_")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def trees(random_params):
    """variant -> {path: float32 array}"""
    return {name: flat(random_params(config)) for name, config in VARIANTS.items()}


def equal(params, leaves):
    """Bit-equal, same paths, same dtype."""
    loaded = flat(params)
    assert set(loaded) == set(leaves)
    for path, leaf in leaves.items():
        assert loaded[path].dtype == leaf.dtype, path
        assert loaded[path].tobytes() == leaf.tobytes(), path


def rounded(leaves):
    return {path: leaf.astype(BFLOAT16) for path, leaf in leaves.items()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("spelling", [name for name in SPELLINGS if name.startswith("pi0")])
def test_every_safetensors_spelling_of_a_policy(variant, spelling, trees, tmp_path):
    config = VARIANTS[variant]
    arrays = huggingface_arrays(of_their_convention(trees[variant]), config, spelling)
    equal(load_params(write_safetensors(arrays, tmp_path), config), trees[variant])
    half = dataclasses.replace(config, param_dtype="bfloat16")
    equal(load_params(tmp_path / "model.safetensors", half), rounded(trees[variant]))


@pytest.mark.parametrize("spelling", [name for name in SPELLINGS if name.startswith("PaliGemma")])
def test_every_safetensors_spelling_of_the_vision_language_model(spelling, trees, tmp_path):
    arrays = huggingface_arrays(vision_language(trees["pi05"]), PI05_TINY, spelling)
    check_vision_language(write_safetensors(arrays, tmp_path), trees["pi05"])


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_orbax_with_and_without_value(variant, value, trees, tmp_path):
    write_orbax(of_their_convention(trees[variant]), tmp_path / "params", value=value)
    for place in (tmp_path, tmp_path / "params"):
        equal(load_params(place, VARIANTS[variant]), trees[variant])


def test_npz_in_float32_and_bfloat16(trees, tmp_path):
    check_vision_language(write_npz(vision_language(trees["pi05"]), tmp_path / "float32.npz"), trees["pi05"])
    half = rounded(trees["pi05"])
    file = write_npz(vision_language(half), tmp_path / "bfloat16.npz")
    check_vision_language(file, {path: leaf.astype(np.float32) for path, leaf in half.items()})


def vision_language(leaves):
    return {path: leaf for path, leaf in leaves.items() if "/img/" in path or ("/llm/" in path and "_1/" not in path)}


def check_vision_language(path, leaves):
    """The file's leaves bit by bit; the expert as a fresh one: the time acts on nothing yet."""
    loaded = flat(load_params(path, PI05_TINY, init=EXPERT, key=jax.random.key(7)))
    equal(vision_language(loaded), vision_language(leaves))
    assert not loaded["PaliGemma/llm/layers/pre_ffw_norm_1/Dense_0/kernel"].any()
    queries = loaded["PaliGemma/llm/layers/attn/q_einsum_1/w"]
    assert queries.std() == pytest.approx(16**-0.5, rel=0.2)
    assert {path: leaf.shape for path, leaf in loaded.items()} == {path: leaf.shape for path, leaf in leaves.items()}


def test_shards_beside_an_index(trees, tmp_path):
    arrays = huggingface_arrays(of_their_convention(trees["pi0"]), SMALL_PI0, "pi0, LeRobot")
    weight_map = {name: f"model-0000{index % 3}-of-00003.safetensors" for index, name in enumerate(arrays)}
    for file in set(weight_map.values()):
        write_safetensors({name: arrays[name] for name in arrays if weight_map[name] == file}, tmp_path, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    equal(load_params(tmp_path, SMALL_PI0), trees["pi0"])
    equal(load_params(index, SMALL_PI0), trees["pi0"])
    (tmp_path / "model-00001-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"names files that are not there: \['model-00001-of-00003.safetensors'\]"):
        load_params(tmp_path, SMALL_PI0)


def test_more_rows_of_vocabulary_are_left_out_and_said(trees, tmp_path):
    arrays = huggingface_arrays(of_their_convention(trees["pi0"]), SMALL_PI0, "pi0, transformers 5")
    (name,) = (name for name in arrays if "embed_tokens" in name)
    arrays[name] = np.concatenate([arrays[name], np.ones((64, 16), np.float32)])
    said = []
    equal(load_params(write_safetensors(arrays, tmp_path), SMALL_PI0, say=said.append), trees["pi0"])
    assert said == ["weights: the vocabulary has 576 rows, the model 512; the last 64 are left out"]
    arrays[name] = np.concatenate([arrays[name], np.ones((1, 16), np.float32)])
    with pytest.raises(
        WeightsError, match=r"another shape: .*embed_tokens.weight: \[577, 16\] in the file, .*\[512, 16\]"
    ):
        load_params(write_safetensors(arrays, tmp_path), SMALL_PI0)


def test_embedding_and_head_may_both_be_there_if_they_are_one(trees, tmp_path):
    arrays = huggingface_arrays(of_their_convention(trees["pi0"]), SMALL_PI0, "pi0, LeRobot")
    head = "model.paligemma_with_expert.paligemma.lm_head.weight"
    embedding = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    unread = "model.paligemma_with_expert.gemma_expert.lm_head.weight"
    arrays |= {embedding: arrays[head].copy(), unread: np.ones((512, 16), np.float32)}
    equal(load_params(write_safetensors(arrays, tmp_path), SMALL_PI0), trees["pi0"])
    arrays[embedding][3, 4] += 1
    with pytest.raises(WeightsError, match=r"lm_head.weight.* differ; PaliGemma's embedding and head are one array"):
        load_params(write_safetensors(arrays, tmp_path), SMALL_PI0)


def test_all_that_is_wrong_is_listed_at_once(trees, tmp_path):
    arrays = huggingface_arrays(of_their_convention(trees["pi0"]), SMALL_PI0, "pi0, transformers 5")
    expert = "paligemma_with_expert.gemma_expert.model"
    del arrays["state_proj.bias"], arrays[f"{expert}.layers.1.mlp.up_proj.weight"]
    arrays["action_in_proj.weight"] = np.ones((16, 7), np.float32)
    arrays[f"{expert}.layers.2.input_layernorm.weight"] = np.ones(16, np.float32)
    arrays["embed_action_time.action_time_mlp_in.bias"] = arrays["action_time_mlp_in.bias"].copy()
    with pytest.raises(WeightsError) as caught:
        load_params(write_safetensors(arrays, tmp_path), SMALL_PI0)
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == [
        "  missing: PaliGemma/llm/layers/mlp_1/gating_einsum [1, 1]",
        "  missing: state_proj/bias",
        f"  unexpected: {expert}.layers.2.input_layernorm.weight",
        "  another shape: action_in_proj.weight: [16, 7] in the file, the model needs [16, 32]",
        "  given twice: ['action_time_mlp_in.bias', 'embed_action_time.action_time_mlp_in.bias']",
    ]
    assert "do not fit the model" in lines[0]
    assert "config.model.init" in lines[-1]


def test_one_variant_is_no_other(trees, tmp_path):
    folder = write_orbax(of_their_convention(trees["pi0"]), tmp_path / "params", value=False)
    with pytest.raises(WeightsError) as caught:
        load_params(folder, PI05_TINY)
    assert "  missing: time_mlp_in/kernel" in str(caught.value)
    assert "  unexpected: params/state_proj/bias" in str(caught.value)
    # All of the expert afresh: what it replaces in the file is no surprise.
    loaded = flat(load_params(folder, PI05_TINY, init=EXPERT, key=jax.random.key(7)))
    equal(vision_language(loaded), vision_language(trees["pi0"]))


def test_another_action_width_by_naming_the_projections(trees, tmp_path):
    config = dataclasses.replace(SMALL_PI0, action_width=24)
    arrays = huggingface_arrays(of_their_convention(trees["pi0"]), SMALL_PI0, "pi0, transformers 5")
    folder = write_safetensors(arrays, tmp_path)
    with pytest.raises(
        WeightsError, match=r"another shape: action_out_proj.bias: \[32\] in the file, the model .*\[24\]"
    ):
        load_params(folder, config)
    said, named = [], "^action_(in|out)_proj/"
    loaded = flat(load_params(folder, config, init=(named,), key=jax.random.key(7), say=said.append))
    fresh = {path: leaf for path, leaf in loaded.items() if path.startswith(("action_in_proj/", "action_out_proj/"))}
    assert {path: leaf.shape for path, leaf in fresh.items()} == {
        "action_in_proj/bias": (16,),
        "action_in_proj/kernel": (24, 16),
        "action_out_proj/bias": (24,),
        "action_out_proj/kernel": (16, 24),
    }
    assert fresh["action_in_proj/kernel"].std() == pytest.approx(24**-0.5, rel=0.2)
    equal(
        {path: leaf for path, leaf in loaded.items() if path not in fresh},
        {path: leaf for path, leaf in trees["pi0"].items() if path not in fresh},
    )
    assert said == [f"weights: initialised afresh: 808 parameters in {', '.join(sorted(fresh))}"]
    with pytest.raises(ValueError, match="key: needed to draw what `init` names"):
        load_params(folder, config, init=(named,))


def test_a_pattern_that_names_nothing_is_refused(trees, tmp_path):
    folder = write_safetensors(huggingface_arrays(trees["pi0"], SMALL_PI0, "pi0, LeRobot"), tmp_path)
    with pytest.raises(WeightsError, match="init: 'expert' names no parameter of this model"):
        load_params(folder, SMALL_PI0, init=("expert",))


def test_a_model_of_the_other_time_is_refused(trees, tmp_path):
    folder = write_safetensors(huggingface_arrays(trees["pi0"], SMALL_PI0, "pi0, LeRobot"), tmp_path)
    with pytest.raises(WeightsError, match="use a model with reversed_time = True"):
        load_params(folder, dataclasses.replace(SMALL_PI0, reversed_time=False))


def test_memory_stays_near_one_copy(tmp_path, random_params):
    """Half of the file's size, which is in float32."""
    config = dataclasses.replace(SMALL_PI0, vocab_size=20_000, lm=GemmaConfig(128, 4096))
    leaves = flat(random_params(config))
    folder = write_safetensors(huggingface_arrays(leaves, config, "pi0, LeRobot"), tmp_path)
    size = sum(leaf.size for leaf in leaves.values()) * BFLOAT16.itemsize
    assert size > 10e6
    del leaves
    half = dataclasses.replace(config, param_dtype="bfloat16")
    load_params(folder, half, place=lambda path, leaf: jax.numpy.zeros(()))  # traces and caches once
    tracemalloc.start()
    try:
        load_params(folder, half, place=lambda path, leaf: leaf)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * size + 4e6  # and one piece of the file


def test_files_that_cannot_be_read_are_named(trees, tmp_path):
    for name, content, message in (
        ("absent", None, "no such file or folder; expected a .safetensors file"),
        ("model.bin", b"", "unknown kind of file; expected a .safetensors file"),
        ("cut.safetensors", b"abc", "cut.safetensors: damaged, its header cannot be read"),
        ("text.safetensors", b"\x09" + bytes(7) + b"no header", "text.safetensors: damaged, its header cannot be read"),
        ("bad.npz", b"PK", "bad.npz: damaged, or no npz"),
        ("index.json", b"{}", "no index of safetensors"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            load_params(tmp_path / name, SMALL_PI0)
    with pytest.raises(WeightsError, match=r"expected one model, found \['cut.safetensors', 'text.safetensors'\]"):
        load_params(tmp_path, SMALL_PI0)


def test_a_truncated_file_is_named(trees, tmp_path):
    file = (
        write_safetensors(huggingface_arrays(trees["pi0"], SMALL_PI0, "pi0, LeRobot"), tmp_path) / "model.safetensors"
    )
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"damaged, it has \d+ bytes and its header needs \d+; download it again"):
        load_params(file, SMALL_PI0)


def test_our_own_small_models_take_no_public_weights(trees, tmp_path):
    folder = write_safetensors(huggingface_arrays(trees["pi0"], SMALL_PI0, "pi0, LeRobot"), tmp_path)
    with pytest.raises(WeightsError, match="missing: PaliGemma/img/stem_0/kernel"):
        load_params(folder, TINY)
