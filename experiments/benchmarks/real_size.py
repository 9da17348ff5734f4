"""Loads weights of the real shapes on this machine: how long it takes, and how much memory.

    python experiments/benchmarks/real_size.py --out FILE.json [--model pi05] [--dtype bfloat16] [--scratch FOLDER]

Writes sharded safetensors as transformers spells pi0 (6.5 GB in bfloat16) to a temporary folder, which is removed at
the end, and loads them through the loader in a process of its own. Random values, no data; what they then do is
measured by gpu.py. Writes {"weights_gb", "phases": {"start", "load": {"seconds", "peak_gb"}}, ...}: peak_gb is the
largest resident memory during that phase, in 1e9 bytes. Linux only, whose kernel counts and resets that peak.
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
from safetensors.numpy import save_file

from dexhil.models.config import VLAConfig, get_model_config
from dexhil.models.vla import abstract_params, count_params
from dexhil.models.weights.load import load_params
from dexhil.models.weights.names import Piece, huggingface_pieces
from dexhil.training.partition import path_name
from experiments.benchmarks.measure import machine, write_result

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
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params(config))
    shapes = {path_name(path): leaf.shape for path, leaf in leaves}
    found = {name: piece for name, piece in huggingface_pieces(config, shapes).items() if piece.path in shapes}
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


def measured(phase: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `phase` returns, its seconds and the largest resident memory meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    began = time.perf_counter()
    result = phase()
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text()
    return result, {"seconds": seconds, "peak_gb": int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024 / 1e9}


def run_phases(folder: Path, config: VLAConfig) -> dict[str, dict[str, Any]]:
    """Starting JAX, then loading, in the process that calls it."""
    _, start = measured(lambda: jax.devices())
    _, load = measured(lambda: jax.block_until_ready(load_params(folder, config)))
    return {"start": start, "load": load}


def main() -> None:
    parser = argparse.ArgumentParser(description="Loads random weights of the real sizes.")
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
    write_result(options.out, result)


if __name__ == "__main__":
    main()
