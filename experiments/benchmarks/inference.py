"""Latency of a policy, plain and with real-time chunking.

    python experiments/benchmarks/inference.py --out FILE.json [--model embedded] [--views 2] [--steps 10]
    python experiments/benchmarks/inference.py --out FILE.json --model pi05 --dtype bfloat16     # real size, on a GPU

Weights are random, made on the device. Latency is of `Policy.infer`, observation to chunk, batch 1, tokens and resizing
included. Writes "latency": method -> {"median_ms", "p99_ms", "cpu_ms", "start_s" (of compiling and warming up)}. Wall
times are those of a machine in use: compare them within one run, or the CPU times.
"""

import dataclasses
import functools
import time
from typing import Any

import numpy as np

from dexhil.models.config import CONFIGS, get_model_config
from dexhil.policy import RtcChoice
from dexhil.training.checkpoints import CheckpointMeta
from experiments.benchmarks.measure import jax_machine, milliseconds, summary, with_cameras
from experiments.benchmarks.random_policy import make_meta, make_policy, random_observation
from experiments.benchmarks.result import parser, write_result


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="embedded", choices=CONFIGS)
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="weights, activations")
    arguments.add_argument("--views", type=int, default=2, help="cameras")
    arguments.add_argument("--steps", type=int, default=10, help="Euler steps")
    arguments.add_argument("--repeats", type=int, default=200)
    options = arguments.parse_args()
    model = with_cameras(dataclasses.replace(get_model_config(options.model), dtype=options.dtype), options.views)
    result = {
        "benchmark": "inference",
        "model": {"name": options.model, "dtype": options.dtype, "views": options.views, "steps": options.steps},
        "machine": jax_machine(),
        "latency": time_latency(make_meta(model), options.steps, options.repeats),
    }
    write_result(options.out, result)


def time_latency(meta: CheckpointMeta, steps: int, repeats: int) -> dict[str, Any]:
    """See the module."""
    model, observation = meta.model, random_observation(np.random.default_rng(0), meta)
    prefix = np.zeros((model.chunk // 2, model.action_dim), np.float32)
    methods: list[tuple[str, RtcChoice]] = [("plain", "none"), ("guided", "guided")]
    if model.rtc_max_delay:
        methods.append(("trained", "trained"))
    latency: dict[str, Any] = {}
    for name, rtc in methods:
        began = time.perf_counter()
        policy = make_policy(meta, num_steps=steps, rtc=rtc)
        start_s = time.perf_counter() - began
        chunking = {} if name == "plain" else {"prefix": prefix, "delay": 2}
        wall, cpu_ms = milliseconds(functools.partial(policy.infer, observation, **chunking), repeats)
        latency[name] = {**summary(wall), "cpu_ms": cpu_ms, "start_s": start_s}
    return latency


if __name__ == "__main__":
    main()
