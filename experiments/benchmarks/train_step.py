"""Speed of the train step and of policy inference, on random NumPy batches: no data set and no TensorFlow needed.

    python experiments/benchmarks/train_step.py --out FILE.json [--model embedded] [--batch-size 32] [--steps 30]

Writes {"train_step": {"median_ms", "p90_ms", "cpu_ms", "samples_per_second", "compile_s"}, "policy_inference":
{"median_ms", "p99_ms"}, ...}. Wall times are those of a machine in use: compare them within one run, or the CPU times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dexhil.augment import AugmentConfig
from dexhil.inputs import fake_batch, model_inputs
from dexhil.models.config import CONFIGS, VLAConfig, get_model_config
from dexhil.models.tokenizer import Tokenizer, train_tokenizer
from dexhil.models.vla import flow_loss, init_params
from dexhil.policy import Policy
from dexhil.schema import ARM_DOF, Observation
from dexhil.training.checkpoints import CheckpointMeta
from dexhil.training.optimizer import OptimizerConfig, make_optimizer, schedule
from dexhil.training.step import StepConfig, init_state, make_train_step
from dexhil.transforms import fit_normalization

CAMERA_SHAPE = (224, 224, 3)  # what a rig delivers; the policy resizes it


def make_meta(model: VLAConfig) -> CheckpointMeta:
    """A checkpoint's facts, made of random data."""
    batch = fake_batch(model, 256)
    normalization = fit_normalization(batch["state"], batch["actions"], batch["action_mask"], delta_dims=range(ARM_DOF))
    tokenizer = train_tokenizer(batch["instruction"])
    return CheckpointMeta("fr3_dexhand021", 20.0, model, normalization, tokenizer, {}, {})


def milliseconds(call: Callable[[], Any], repeats: int) -> tuple[np.ndarray, float]:
    """Wall time of each call [repeats], and the mean CPU time, in ms."""
    wall, cpu = [], time.process_time()
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        wall.append(1e3 * (time.perf_counter() - began))
    return np.array(wall), 1e3 * (time.process_time() - cpu) / repeats


def time_training(meta: CheckpointMeta, batch_size: int, flow_samples: int, steps: int) -> dict[str, float]:
    """Whole steps: raw batch to the model's terms, transfer, augmentation, loss, gradient, optimiser, EMA."""
    options = OptimizerConfig(steps=10_000)
    optimizer = make_optimizer(options)
    state = init_state(init_params(meta.model, jax.random.key(0)), optimizer)
    step = make_train_step(
        lambda params, inputs, key: flow_loss(params, meta.model, inputs, key, flow_samples=flow_samples),
        optimizer,
        schedule(options),
        StepConfig(augment=AugmentConfig()),
    )
    tokenizer, batch = Tokenizer(meta.tokenizer), fake_batch(meta.model, batch_size)

    def one_step() -> None:
        nonlocal state
        inputs = jax.device_put(model_inputs(batch, meta.normalization, tokenizer, meta.model))
        state, metrics = step(state, inputs)
        jax.block_until_ready(metrics)

    compile_ms, _ = milliseconds(one_step, 1)
    wall, cpu = milliseconds(one_step, steps)
    return {
        "median_ms": float(np.median(wall)),
        "p90_ms": float(np.quantile(wall, 0.9)),
        "cpu_ms": cpu,
        "samples_per_second": 1e3 * batch_size / float(np.median(wall)),
        "compile_s": float(compile_ms[0]) / 1e3,
    }


def make_policy(meta: CheckpointMeta) -> tuple[Policy, Observation]:
    """An untrained policy and a random observation for it."""
    policy = Policy(init_params(meta.model, jax.random.key(0)), meta)
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
        "platform": device.platform,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the train step and of policy inference.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="embedded", help=f"one of {sorted(CONFIGS)}")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--flow-samples", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--inferences", type=int, default=300)
    options = parser.parse_args()
    meta = make_meta(get_model_config(options.model))
    result = {
        "benchmark": "train_step",
        "model": options.model,
        "batch_size": options.batch_size,
        "flow_samples": options.flow_samples,
        "machine": machine(),
        "train_step": time_training(meta, options.batch_size, options.flow_samples, options.steps),
        "policy_inference": time_inference(meta, options.inferences),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
