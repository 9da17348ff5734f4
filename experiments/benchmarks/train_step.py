"""Speed and memory of the train step, and speed of inference, on random NumPy batches: no data set, no TensorFlow.

    python experiments/benchmarks/train_step.py --out FILE.json [--model embedded] [--batch-size 32] [--steps 30]
    python experiments/benchmarks/train_step.py --out FILE.json --model pi05 --mode lora --optimizer adamw

Writes {"train_step": {"median_ms", "p90_ms", "cpu_ms", "samples_per_second", "compile_s", "estimated_gib", "peak_gib",
"tflops_per_sample", "mfu", ...}, "policy_inference": {"median_ms", "p99_ms"}, ...}. Wall times are those of a machine
in use: compare them within one run, or the CPU times. --mode lora: ranks 16 and 32, all other weights of PaliGemma and
expert frozen in bfloat16. --estimate compiles and reports the memory that a step needs, without running one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dexhil.models.config import CONFIGS, VLAConfig, get_model_config
from dexhil.models.inputs import fake_batch, model_inputs
from dexhil.models.params import init_params
from dexhil.models.tokenizer import Tokenizer, train_tokenizer
from dexhil.models.vla import flow_loss
from dexhil.policy import Policy
from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.schema import ARM_DOF, Observation
from dexhil.training.augment import AugmentConfig
from dexhil.training.checkpoints import CheckpointMeta
from dexhil.training.optimizer import OPTIMIZERS, OptimizerConfig, make_optimizer, schedule
from dexhil.training.partition import frozen_paths
from dexhil.training.sharding import make_mesh, place_batch
from dexhil.training.step import StepConfig, make_state, make_train_step
from dexhil.transforms.normalization import fit_normalization
from experiments.benchmarks.flops import peak_tflops, training_flops

CAMERA_SHAPE = (224, 224, 3)  # what a rig delivers; the policy resizes it
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class TrainingCase:
    """What is trained, and how. mode: "full", or "lora" with frozen weights in bfloat16. fsdp: see `make_mesh`."""

    mode: str = "full"
    batch_size: int = 32
    flow_samples: int = 1
    optimizer: str = "muon"
    ema: str = "device"
    fsdp: int = 1


def adapted(model: VLAConfig) -> VLAConfig:
    """The model with adapters of rank 16 on the language model and 32 on the expert."""
    streams = {"lm": (model.lm, 16), "expert": (model.expert, 32)}
    return dataclasses.replace(
        model, **{name: dataclasses.replace(stream, lora_rank=rank) for name, (stream, rank) in streams.items()}
    )


def make_meta(model: VLAConfig) -> CheckpointMeta:
    """A checkpoint's facts, made of random data."""
    batch = fake_batch(model, 256 if model.image_size < 100 else 8)
    normalization = fit_normalization(batch["state"], batch["actions"], batch["action_mask"], delta_dims=range(ARM_DOF))
    tokenizer = train_tokenizer(batch["instruction"])
    return CheckpointMeta("fr3_dexhand021", 20.0, model, normalization, tokenizer, {}, {}, FR3_DEXHAND021.joint_names)


def random_params(model: VLAConfig, dtype: str) -> Any:
    """Parameters of the model's shapes in `dtype`, leaf by leaf: in memory there is never more than one copy."""
    values = np.random.default_rng(0).normal(0, 0.02, 1 << 20).astype(jax.numpy.dtype(dtype))
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
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
    meta: CheckpointMeta, case: TrainingCase, steps: int | None, peak: float | None = None, params: Any = None
) -> dict[str, float | None]:
    """Whole steps: raw batch to the model's terms, transfer, augmentation, loss, gradient, optimiser, EMA.

    steps: timed ones, after a first; None estimates the memory and runs none. peak: of a device, TFLOP/s.
    params: of the model, adapters included, which are taken over; random ones by default.
    """
    model, mesh = meta.model, make_mesh(case.fsdp)
    if params is None:
        params = random_params(model, "bfloat16" if case.mode == "lora" else "float32")
    frozen = frozen_paths(params, ["PaliGemma"] if case.mode == "lora" else [])
    tflops = training_flops(model, params, frozen, case.flow_samples) / 1e12
    options = OptimizerConfig(steps=10_000, name=case.optimizer)
    optimizer = make_optimizer(options)
    state = make_state(params, optimizer, mesh, frozen=frozen, frozen_dtype="bfloat16", ema=case.ema)
    del params
    step = make_train_step(
        lambda params, inputs, key: flow_loss(params, model, inputs, key, flow_samples=case.flow_samples),
        optimizer,
        schedule(options),
        StepConfig(augment=AugmentConfig(), ema=case.ema),
        state,
    )
    tokenizer, batch = Tokenizer(meta.tokenizer), fake_batch(model, case.batch_size, normalization=meta.normalization)

    def make_inputs() -> Any:
        return place_batch(mesh, model_inputs(batch, meta.normalization, tokenizer, model))

    began = time.perf_counter()
    step = step.lower(state, make_inputs()).compile()
    result: dict[str, float | None] = {
        "compile_s": time.perf_counter() - began,
        "trained_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "frozen_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.frozen)),
        "estimated_gib": estimated_gib(step),
        "tflops_per_sample": tflops,
    }
    if steps is None:
        return result

    def one_step() -> None:
        nonlocal state
        state, metrics = step(state, make_inputs())
        jax.block_until_ready(metrics)

    first, first_cpu = milliseconds(one_step, 1)
    wall, cpu = milliseconds(one_step, steps) if steps else (first, first_cpu)
    rate = 1e3 * case.batch_size / float(np.median(wall))
    return result | {
        "median_ms": float(np.median(wall)),
        "p90_ms": float(np.quantile(wall, 0.9)),
        "cpu_ms": cpu,
        "samples_per_second": rate,
        "peak_gib": peak_gib(),
        "mfu": rate * tflops / (peak * mesh.size) if peak else None,
    }


def estimated_gib(compiled: Any) -> float:
    """Arguments, results that are not in their place, and temporary arrays of a compiled program, per device."""
    memory = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (memory.argument_size_in_bytes + results + memory.temp_size_in_bytes) / GIB


def peak_gib() -> float:
    """Most memory in use so far: of a device where it counts, else of this process."""
    statistics = [device.memory_stats() for device in jax.local_devices()]
    if all(statistics):
        return max(s["peak_bytes_in_use"] for s in statistics if s) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def make_policy(meta: CheckpointMeta) -> tuple[Policy, Observation]:
    """An untrained policy and a random observation for it."""
    policy = Policy(random_params(meta.model, meta.model.dtype), meta)
    rng = np.random.default_rng(0)
    observation = Observation(
        images={camera: rng.integers(0, 256, CAMERA_SHAPE, np.uint8) for camera in meta.model.cameras},
        q_arm=np.zeros(ARM_DOF, np.float32),
        q_hand=np.zeros(meta.model.state_dim - ARM_DOF, np.float32),
        pose_base_ee=np.array([0.5, 0, 0.3, 1, 0, 0, 0], np.float32),
        timestamp=0.0,
        language_instruction=fake_batch(meta.model, 1)["instruction"][0],
    )
    return policy, observation


def time_inference(meta: CheckpointMeta, repeats: int) -> dict[str, float]:
    """Observation to chunk, resizing and transfers included."""
    policy, observation = make_policy(meta)
    wall, cpu = milliseconds(lambda: policy.infer(observation), repeats)
    return {"median_ms": float(np.median(wall)), "p99_ms": float(np.quantile(wall, 0.99)), "cpu_ms": cpu}


def machine() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "platform": device.platform,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of the train step, speed of policy inference.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="embedded", help=f"one of {sorted(CONFIGS)}")
    parser.add_argument("--mode", default="full", choices=("full", "lora"))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--flow-samples", type=int, default=1)
    parser.add_argument("--optimizer", default="muon", choices=OPTIMIZERS)
    parser.add_argument("--ema", default="device", choices=("device", "off"))
    parser.add_argument("--fsdp", type=int, default=1, help="devices that share one copy of the parameters")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of activations; default: the model's")
    parser.add_argument("--remat", action=argparse.BooleanOptionalAction, help="default: the model's")
    parser.add_argument("--steps", type=int, default=30, help="timed after a first; 0: that one only")
    parser.add_argument("--estimate", action="store_true", help="memory of a step, which is compiled and not run")
    parser.add_argument("--peak-tflops", type=float, help="of one device; default: looked up by its name")
    parser.add_argument("--inferences", type=int, default=300, help="0: training only")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    model = get_model_config(options.model)
    model = adapted(model) if options.mode == "lora" else model
    chosen = {name: getattr(options, name) for name in ("dtype", "remat") if getattr(options, name) is not None}
    meta = make_meta(dataclasses.replace(model, **chosen))
    case = TrainingCase(
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(TrainingCase)}  # named alike
    )
    peak = options.peak_tflops or peak_tflops(jax.devices()[0].device_kind)
    result = {
        "benchmark": "train_step",
        "model": options.model,
        "dtype": meta.model.dtype,
        "remat": meta.model.remat,
        **dataclasses.asdict(case),
        "peak_tflops": peak,
        "machine": machine(),
        "train_step": measure_training(meta, case, None if options.estimate else options.steps, peak),
    }
    if options.inferences and not options.estimate:
        result["policy_inference"] = time_inference(meta, options.inferences)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
