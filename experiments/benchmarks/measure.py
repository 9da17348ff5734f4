"""What the benchmarks of the model measure with: NumPy, JAX and Optax only, no checkpoint, tokenizer or data set."""

import dataclasses
import os
import resource
import time
from collections.abc import Callable, Collection
from typing import Any, Literal

import jax
import numpy as np

from dexhil.models.config import VLAConfig
from dexhil.models.vla import abstract_params, flow_loss
from dexhil.training.optimizer import OptimizerConfig, make_optimizer, schedule
from dexhil.training.partition import frozen_paths, path_name
from dexhil.training.sharding import make_mesh, place_batch
from dexhil.training.step import StepConfig, make_state, make_train_step
from experiments.benchmarks.flops import training_flops
from experiments.benchmarks.result import machine

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class TrainingCase:
    """What is trained, and how. mode: "full", or "lora" with frozen weights in bfloat16."""

    mode: str = "full"
    batch_size: int = 32
    flow_samples: int = 1
    optimizer: Literal["muon", "adamw"] = "muon"
    ema: Literal["device", "off"] = "device"


def adapted(model: VLAConfig) -> VLAConfig:
    """The model with adapters of rank 16 on the language model and 32 on the expert."""
    streams = {"lm": (model.lm, 16), "expert": (model.expert, 32)}
    return dataclasses.replace(
        model, **{name: dataclasses.replace(stream, lora_rank=rank) for name, (stream, rank) in streams.items()}
    )


def random_params(model: VLAConfig, dtype: str) -> Any:
    """Parameters of the model's shapes in `dtype`, leaf by leaf: in memory there is never more than one copy."""
    values = np.random.default_rng(0).normal(0, 0.02, 1 << 20).astype(jax.numpy.dtype(dtype))
    shapes = abstract_params(model)
    return jax.tree.map(lambda leaf: jax.device_put(np.resize(values, leaf.shape)), shapes)


def milliseconds(call: Callable[[], Any], repeats: int) -> tuple[np.ndarray, float]:
    """Wall time of each call [repeats], and the mean CPU time, in ms."""
    wall, cpu = [], time.process_time()
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        wall.append(1e3 * (time.perf_counter() - began))
    return np.array(wall), 1e3 * (time.process_time() - cpu) / repeats


def measure_training(
    model: VLAConfig, case: TrainingCase, make_batch: Callable[[], Any], steps: int, peak: float | None = None
) -> dict[str, float | None]:
    """Whole steps of random parameters: the batch, transfer, augmentation, loss, gradient, optimiser, EMA.

    make_batch: the model's inputs, in NumPy. steps: timed ones, after a first. peak: of a device, TFLOP/s. Raises
    MemoryError, before it is used up, where the device has too little.
    """
    mesh, shapes = make_mesh(), abstract_params(model)
    frozen = frozen_paths(shapes, ["PaliGemma"] if case.mode == "lora" else [])
    check_memory(state_gib(shapes, frozen, case))
    tflops = training_flops(model, shapes, frozen, case.flow_samples) / 1e12
    params = random_params(model, "bfloat16" if case.mode == "lora" else "float32")
    options = OptimizerConfig(steps=10_000, optimizer=case.optimizer)
    optimizer = make_optimizer(options)
    state = make_state(params, optimizer, mesh, frozen=frozen, frozen_dtype="bfloat16", ema=case.ema)
    del params
    step = make_train_step(
        lambda params, inputs, key: flow_loss(params, model, inputs, key, flow_samples=case.flow_samples),
        optimizer,
        schedule(options),
        StepConfig(augment=True, ema=case.ema),
        state,
    )
    began = time.perf_counter()
    step = step.lower(state, place_batch(mesh, make_batch())).compile()
    compile_s = time.perf_counter() - began
    check_memory(estimated_gib(step))

    def one_step() -> None:
        nonlocal state
        state, metrics = step(state, place_batch(mesh, make_batch()))
        jax.block_until_ready(metrics)

    one_step()
    wall, cpu = milliseconds(one_step, steps)
    rate = 1e3 * case.batch_size / float(np.median(wall))
    return {
        "compile_s": compile_s,
        "trained_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "frozen_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.frozen)),
        "estimated_gib": estimated_gib(step),
        "tflops_per_sample": tflops,
        "median_ms": float(np.median(wall)),
        "p90_ms": float(np.quantile(wall, 0.9)),
        "cpu_ms": cpu,
        "samples_per_second": rate,
        "peak_gib": peak_gib(),
        "mfu": rate * tflops / (peak * mesh.size) if peak else None,
    }


def state_gib(shapes: Any, frozen: Collection[str], case: TrainingCase) -> float:
    """Parameters, gradients, the optimiser's one or two averages and the EMA, without activations."""
    copies = {"muon": 3, "adamw": 4}[case.optimizer] + (case.ema == "device")
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return sum(leaf.size * (2 if path_name(path) in frozen else 4 * copies) for path, leaf in leaves) / GIB


def check_memory(needed_gib: float) -> None:
    """Raises MemoryError where the device, or this machine without one, has less than `needed_gib`."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = statistics.get("bytes_limit", physical) / GIB
    if needed_gib > limit:
        raise MemoryError(f"needs {needed_gib:.1f} GiB, {jax.devices()[0].device_kind} has {limit:.1f} GiB")


def estimated_gib(compiled: Any) -> float:
    """Arguments, results that are not in their place, and temporary arrays of a compiled program, per device."""
    memory = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (memory.argument_size_in_bytes + results + memory.temp_size_in_bytes) / GIB


def summary(wall: np.ndarray) -> dict[str, float]:
    """Of wall times in ms."""
    return {"median_ms": float(np.median(wall)), "p99_ms": float(np.quantile(wall, 0.99))}


def random_inputs(model: VLAConfig, batch: int) -> dict[str, Any]:
    """A batch in the model's terms, prompts as long as they may be, with actions to train."""
    rng, side = np.random.default_rng(0), model.image_size
    return {
        "images": {camera: rng.integers(0, 256, (batch, side, side, 3), np.uint8) for camera in model.cameras},
        "tokens": rng.integers(0, model.vocab_size, (batch, model.max_tokens), np.int32),
        "token_mask": np.ones((batch, model.max_tokens), bool),
        "state": rng.uniform(-1, 1, (batch, model.state_dim)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (batch, model.chunk, model.action_dim)).astype(np.float32),
        "action_mask": np.ones((batch, model.chunk), bool),
        "weight": np.ones(batch, np.float32),
    }


def with_cameras(model: VLAConfig, count: int) -> VLAConfig:
    """The model with so many cameras, able to take a prefix of up to half a chunk where its variant can."""
    cameras = tuple(f"camera_{index}" for index in range(count))
    delay = model.chunk // 2 if model.variant == "pi05" else 0
    return dataclasses.replace(model, cameras=cameras, rtc_max_delay=delay)


def peak_gib() -> float:
    """Most memory in use so far: of a device where it counts, else of this process."""
    statistics = [device.memory_stats() for device in jax.local_devices()]
    if all(statistics):
        return max(s["peak_bytes_in_use"] for s in statistics if s) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def jax_machine() -> dict[str, Any]:
    """Where this was measured, with the device."""
    device = jax.devices()[0]
    facts = {"device": device.device_kind, "devices": jax.device_count(), "platform": device.platform}
    return machine() | facts | {"jax": jax.__version__}
