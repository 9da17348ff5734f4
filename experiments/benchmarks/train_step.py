"""Speed and memory of the train step on random NumPy batches: no data set, no TensorFlow.

    python experiments/benchmarks/train_step.py --out FILE.json [--model embedded] [--batch-size 32] [--steps 30]
    python experiments/benchmarks/train_step.py --out FILE.json --model pi05 --mode lora --optimizer adamw

Writes {"train_step": {"median_ms", "p90_ms", "cpu_ms", "samples_per_second", "compile_s", "estimated_gib", "peak_gib",
"tflops_per_sample", "mfu", ...}, ...}. Wall times are those of a machine in use: compare them within one run, or the
CPU times. --mode lora: ranks 16 and 32, all other weights of PaliGemma and expert frozen in bfloat16.
"""

import argparse
import dataclasses
from typing import Any

import jax

from dexhil.models.config import CONFIGS, get_model_config
from dexhil.models.inputs import fake_batch, model_inputs
from dexhil.models.tokenizer import Tokenizer
from experiments.benchmarks.flops import peaks
from experiments.benchmarks.measure import TrainingCase, adapted, jax_machine, measure_training
from experiments.benchmarks.random_policy import make_meta
from experiments.benchmarks.result import parser, write_result


def parse_arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="embedded", choices=CONFIGS)
    arguments.add_argument("--mode", default="full", choices=("full", "lora"))
    arguments.add_argument("--batch-size", type=int, default=32)
    arguments.add_argument("--flow-samples", type=int, default=1)
    arguments.add_argument("--optimizer", default="muon", choices=("muon", "adamw"))
    arguments.add_argument("--ema", default="device", choices=("device", "off"))
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), help="of activations; default: the model's")
    arguments.add_argument("--remat", action=argparse.BooleanOptionalAction, help="default: the model's")
    arguments.add_argument("--steps", type=int, default=30, help="timed after a first")
    return arguments.parse_args()


def main() -> None:
    options = parse_arguments()
    model = get_model_config(options.model)
    model = adapted(model) if options.mode == "lora" else model
    chosen = {name: getattr(options, name) for name in ("dtype", "remat") if getattr(options, name) is not None}
    meta = make_meta(dataclasses.replace(model, **chosen))
    case = TrainingCase(
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(TrainingCase)}  # named alike
    )
    peak, tokenizer = peaks(jax.devices()[0].device_kind)[0], Tokenizer(meta.tokenizer)
    batch = fake_batch(meta.model, case.batch_size, normalization=meta.normalization)

    def make_batch() -> dict[str, Any]:
        return model_inputs(batch, meta.normalization, tokenizer, meta.model)

    result = {
        "benchmark": "train_step",
        "model": options.model,
        "dtype": meta.model.dtype,
        "remat": meta.model.remat,
        **dataclasses.asdict(case),
        "machine": jax_machine(),
        "train_step": measure_training(meta.model, case, make_batch, options.steps, peak),
    }
    write_result(options.out, result)


if __name__ == "__main__":
    main()
