"""The real model on this machine: weights of the real shapes are loaded, infer one chunk and train adapters one step.

    python experiments/benchmarks/real_size.py --out FILE.json [--model pi05] [--dtype bfloat16] [--scratch FOLDER]

Writes sharded safetensors as transformers spells pi0 (6.5 GB in bfloat16) to a temporary folder, which is removed at
the end, loads them through the loader in a process of its own, infers one chunk (2 views, 10 steps) and takes one step
of LoRA with a batch of one. Random values, no data. Writes {"weights_gb", "phases": {"load", "inference", "lora_step":
{"seconds", "peak_gb"}}, ...}: peak_gb is the most resident memory during that phase, parameters included, in 1e9 bytes.
Linux only, whose kernel counts and resets that peak.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from dexhil.models.params import Params, count_params, hold_as_bits
from safetensors.numpy import save_file

from dexhil.models.config import VLAConfig, get_model_config
from dexhil.models.lora import fresh_adapters, merge_trees
from dexhil.models.sampling import sample_actions
from dexhil.models.vla import init_params
from dexhil.models.weights.load import load_params
from dexhil.models.weights.names import Piece, huggingface_pieces
from experiments.benchmarks.train_step import TrainingCase, adapted, machine, make_meta, measure_training

MODELS = ("pi0", "pi05", "pi05_tiny")
SHARD_BYTES = 500e6  # only one shard is held while writing
SCALE = 0.02  # of the random values: activations neither die nor explode over the layers


def write_weights(folder: Path, config: VLAConfig) -> float:
    """Random weights in shards with an index, in the dtype of the parameters; GB written."""
    values = (SCALE * np.random.default_rng(0).standard_normal(1 << 22)).astype(config.param_dtype)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards(pieces(config), values.itemsize)):
        arrays = {name: np.resize(values, piece.shape) for name, piece in shard.items()}
        save_file(arrays, folder / f"model-{number:05d}.safetensors")
        weight_map |= dict.fromkeys(arrays, f"model-{number:05d}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e9


def pieces(config: VLAConfig) -> dict[str, Piece]:
    """{name in the file: piece} of what this variant has, as transformers 5 spells it."""
    tree = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    paths = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}
    found = {name: piece for name, piece in huggingface_pieces(config).items() if piece.path in paths}
    return {spell(name): piece for name, piece in found.items() if "lm_head" not in name}


def spell(name: str) -> str:
    vlm = "paligemma_with_expert.paligemma.model."
    starts = {
        "language.": f"{vlm}language_model.model.",
        "vision.": f"{vlm}vision_tower.",
        "projector.": f"{vlm}multi_modal_projector.linear.",
        "expert.": "paligemma_with_expert.gemma_expert.model.",
    }
    return re.sub(r"^\w+\.", lambda start: starts.get(start[0], start[0]), name, count=1)


def shards(named: dict[str, Piece], itemsize: int) -> Iterator[dict[str, Piece]]:
    """Groups of arrays of about `SHARD_BYTES`, at least one array each."""
    shard: dict[str, Piece] = {}
    size = 0
    for name, piece in named.items():
        shard[name] = piece
        size += itemsize * math.prod(piece.shape)
        if size > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def random_inputs(config: VLAConfig) -> dict[str, Any]:
    """One observation in the model's terms, its prompt as long as it may be."""
    rng, side = np.random.default_rng(0), config.image_size
    images = {camera: rng.uniform(-1, 1, (1, side, side, 3)).astype(np.float32) for camera in config.cameras}
    inputs = {
        "images": images,
        "tokens": rng.integers(0, config.vocab_size, (1, config.max_tokens), np.int32),
        "token_mask": np.ones((1, config.max_tokens), bool),
        "state": rng.uniform(-1, 1, (1, config.state_dim)).astype(np.float32),
    }
    return jax.device_put(inputs)


def infer(params: Params, config: VLAConfig) -> dict[str, float]:
    """Compiles, then infers one chunk; seconds of both."""
    inputs, key, began = random_inputs(config), jax.random.key(0), time.perf_counter()
    sample = sample_actions.lower(params, config, inputs, key, num_steps=10).compile()
    compiled = time.perf_counter()
    chunk = np.asarray(sample(params, inputs, key))
    if not np.isfinite(chunk).all():
        raise RuntimeError("the chunk has non-finite actions; expected finite ones of weights this small")
    return {"compile_seconds": compiled - began, "run_seconds": time.perf_counter() - compiled}


def train_adapters(params: Params, config: VLAConfig) -> dict[str, float | None]:
    """One step of LoRA over the frozen `params`."""
    model = adapted(config)
    params = merge_trees(params, fresh_adapters(model, jax.random.key(0)))
    case = TrainingCase("lora", batch_size=1, optimizer="adamw", ema="off")
    return measure_training(make_meta(model), case, steps=0, params=params)


def place(path: str, leaf: Any) -> jax.Array:
    return jax.device_put(hold_as_bits(path, leaf) if jax.default_backend() == "cpu" else leaf)


def measured(phase: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `phase` returns, its seconds and the most resident memory meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    began = time.perf_counter()
    result = phase()
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text()
    return result, {"seconds": seconds, "peak_gb": int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024 / 1e9}


def run_phases(folder: Path, config: VLAConfig) -> dict[str, dict[str, Any]]:
    """All phases on one set of parameters, in the process that calls it."""
    _, start = measured(lambda: jax.devices())
    params, load = measured(lambda: jax.block_until_ready(load_params(folder, config, place=place)))
    times, inference = measured(lambda: infer(params, config))
    step, training = measured(lambda: train_adapters(params, config))
    return {"start": start, "load": load, "inference": inference | times, "lora_step": training | step}


def main() -> None:
    parser = argparse.ArgumentParser(description="Loads and runs the real model sizes on random weights.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="pi05", choices=MODELS)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"), help="parameters, activations")
    parser.add_argument("--scratch", type=Path, help="where the temporary weights go; default: the system's folder")
    options = parser.parse_args()
    config = get_model_config(options.model)
    config = dataclasses.replace(config, param_dtype=options.dtype, dtype=options.dtype)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        written = write_weights(Path(folder), config)
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # the writer's memory does not count
            phases = pool.apply(run_phases, (Path(folder), config))
    result = {
        "benchmark": "real_size",
        "model": options.model,
        "dtype": options.dtype,
        "parameters": count_params(config),
        "weights_gb": written,
        "phases": phases,
        "machine": machine(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
