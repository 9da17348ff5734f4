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
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dexhil.models.config import CONFIGS, VLAConfig, get_model_config
from dexhil.models.inputs import fake_batch, model_inputs
from dexhil.models.tokenizer import Tokenizer, train_tokenizer
from dexhil.policy import Policy, RtcChoice
from dexhil.schema import ARM_DOF, Observation
from dexhil.training.checkpoints import CheckpointMeta
from dexhil.training.optimizer import OPTIMIZERS
from dexhil.transforms.normalization import fit_normalization
from experiments.benchmarks.flops import peaks
from experiments.benchmarks.measure import (
    TrainingCase,
    adapted,
    machine,
    measure_training,
    milliseconds,
    random_params,
    summary,
    write_result,
)

CAMERA_SHAPE = (224, 224, 3)  # what a rig delivers; the policy resizes it


def make_meta(model: VLAConfig) -> CheckpointMeta:
    """A checkpoint's facts, made of random data."""
    batch = fake_batch(model, 256 if model.image_size < 100 else 8)
    normalization = fit_normalization(batch["state"], batch["actions"], batch["action_mask"], delta_dims=range(ARM_DOF))
    tokenizer = train_tokenizer(batch["instruction"])
    return CheckpointMeta("fr3_dexhand021", 20.0, model, normalization, tokenizer, {}, {})


def make_policy(meta: CheckpointMeta, *, num_steps: int = 10, rtc: RtcChoice = "none") -> tuple[Policy, Observation]:
    """An untrained policy and a random observation for it."""
    policy = Policy(random_params(meta.model.base(), meta.model.dtype), meta, num_steps=num_steps, rtc=rtc)
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
    return summary(wall) | {"cpu_ms": cpu}


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
    peak = options.peak_tflops or peaks(jax.devices()[0].device_kind)[0]
    tokenizer = Tokenizer(meta.tokenizer)
    batch = fake_batch(meta.model, case.batch_size, normalization=meta.normalization)

    def make_batch() -> dict[str, Any]:
        return model_inputs(batch, meta.normalization, tokenizer, meta.model)

    steps = None if options.estimate else options.steps
    result = {
        "benchmark": "train_step",
        "model": options.model,
        "dtype": meta.model.dtype,
        "remat": meta.model.remat,
        **dataclasses.asdict(case),
        "peak_tflops": peak,
        "machine": machine(),
        "train_step": measure_training(meta.model, case, make_batch, steps, peak),
    }
    if options.inferences and not options.estimate:
        result["policy_inference"] = time_inference(meta, options.inferences)
    write_result(options.out, result)


if __name__ == "__main__":
    main()
