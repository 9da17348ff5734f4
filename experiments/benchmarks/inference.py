"""Latency of a policy, plain and with real-time chunking, and what late chunks do to the commands.

    python experiments/benchmarks/inference.py --out FILE.json [--model embedded] [--views 2] [--steps 10]
    python experiments/benchmarks/inference.py --out FILE.json --model pi05 --dtype bfloat16     # real size, on a GPU
    python experiments/benchmarks/inference.py --out FILE.json --checkpoint runs/sim [--trials 4] [--latency-steps 4]

Weights are random, made on the device. Latency is of `Policy.infer`, observation to chunk, batch 1. With a checkpoint
of a simulated rig it also runs trials in which every chunk comes late: the largest change of the command (rad) at the
hand-over between chunks, beside that inside of chunks, for every hand-over mode. Wall times are those of a machine in
use: compare them within one run, or the CPU times.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dexhil.control.executor import ExecutorConfig
from dexhil.evaluation.rollout import run_trial
from dexhil.models.config import CONFIGS, get_model_config
from dexhil.models.inputs import model_inputs
from dexhil.models.tokenizer import Tokenizer
from dexhil.models.vla import abstract_params
from dexhil.policy import Policy, RtcChoice
from dexhil.rig import RigConfig
from dexhil.schema import ActionChunk, Observation
from dexhil.settings import from_values
from dexhil.training.checkpoints import CheckpointMeta, load_meta
from experiments.benchmarks.flops import inference_work, utilisation
from experiments.benchmarks.measure import machine, milliseconds, summary, with_cameras, write_result
from experiments.benchmarks.train_step import make_meta, make_policy

MODES: tuple[tuple[str, RtcChoice], ...] = (  # hand-over, chunking
    ("sync", "none"),
    ("replace", "none"),
    ("rtc", "guided"),
    ("rtc", "trained"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="embedded", help=f"pi05 or one of {sorted(CONFIGS)}")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and activations"
    )
    parser.add_argument("--views", type=int, default=2, help="cameras")
    parser.add_argument("--steps", type=int, default=10, help="Euler steps")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--checkpoint", type=Path, help="workdir of a training run in simulation")
    parser.add_argument("--trials", type=int, default=4, help="per hand-over mode, with --checkpoint")
    parser.add_argument("--latency-steps", type=int, default=4, help="control steps, with --checkpoint")
    options = parser.parse_args()
    model = with_cameras(dataclasses.replace(get_model_config(options.model), dtype=options.dtype), options.views)
    result = {
        "benchmark": "inference",
        "model": {"name": options.model, "dtype": options.dtype, "views": options.views, "steps": options.steps},
        "machine": machine(),
        "latency": time_latency(make_meta(model), options.steps, options.repeats),
    }
    if options.checkpoint:
        result["handover"] = measure_handover(options.checkpoint, options.trials, options.latency_steps)
    write_result(options.out, result)


def time_latency(meta: CheckpointMeta, steps: int, repeats: int) -> dict[str, Any]:
    """method -> {"median_ms", "p99_ms", "cpu_ms", "start_s"} and, where the device is known, fractions of its peaks.

    "host" is the part that prepares the inputs; start_s: of compiling and warming up.
    """
    model, shapes = meta.model, abstract_params(dataclasses.replace(meta.model, param_dtype=meta.model.dtype))
    prefix = np.zeros((model.chunk // 2, model.action_dim), np.float32)
    methods: list[tuple[str, RtcChoice]] = [("plain", "none"), ("guided", "guided")]
    if model.rtc_max_delay:
        methods.append(("trained", "trained"))
    latency: dict[str, Any] = {}
    for name, rtc in methods:
        began = time.perf_counter()
        policy, observation = make_policy(meta, num_steps=steps, rtc=rtc)
        start_s = time.perf_counter() - began
        infer = functools.partial(
            policy.infer, observation, **({} if name == "plain" else {"prefix": prefix, "delay": 2})
        )
        wall, cpu_ms = milliseconds(infer, repeats)
        work = inference_work(model, shapes, steps, guided=name == "guided")
        facts = utilisation(work, float(np.median(wall)) / 1e3, jax.devices()[0].device_kind)
        latency.setdefault("host", time_host(meta, observation, repeats))
        latency[name] = {**summary(wall), "cpu_ms": cpu_ms, "start_s": start_s, **facts}
    return latency


def time_host(meta: CheckpointMeta, observation: Observation, repeats: int) -> dict[str, float]:
    """Tokens, state and images of one observation, NumPy only."""
    tokenizer = Tokenizer(meta.tokenizer)
    batch = {
        "images": {camera: image[None] for camera, image in observation.images.items()},
        "state": np.concatenate([observation.q_arm, observation.q_hand])[None],
        "instruction": [observation.language_instruction],
    }
    wall, _ = milliseconds(lambda: model_inputs(batch, meta.normalization, tokenizer, meta.model), repeats)
    return summary(wall)


class _Tape:
    """A rig and a policy that note every command, and the step of every question."""

    def __init__(self, rig: Any, policy: Policy) -> None:
        self.commands: list[np.ndarray] = []
        self.asked: list[int] = []
        self._rig, self._policy = rig, policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rig, name)

    def apply(self, action: np.ndarray) -> np.ndarray:
        self.commands.append(action)
        return self._rig.apply(action)

    def infer(self, observation: Observation, **options: Any) -> ActionChunk:
        self.asked.append(len(self.commands))
        return self._policy.infer(observation, **options)


def measure_handover(checkpoint: Path, trials: int, latency_steps: int) -> dict[str, Any]:
    """mode -> successes, and the command's largest change per joint (rad per step) at hand-overs and inside chunks."""
    from experiments.rigs import make_rig  # here: it needs MuJoCo, which a GPU machine may lack

    meta = load_meta(checkpoint)
    result: dict[str, Any] = {"latency_steps": latency_steps, "trials": trials}
    with contextlib.closing(make_rig(from_values(RigConfig, meta.config["rig"], "rig"))) as rig:
        for handover, rtc in MODES:
            most = meta.model.rtc_max_delay if rtc == "trained" else meta.model.chunk // 2
            if latency_steps > most or (rtc == "trained" and not most):
                continue
            policy = Policy.load(checkpoint, rtc=rtc)
            outcomes = [one_trial(rig, policy, meta, index, latency_steps, handover) for index in range(trials)]
            successes, between, inside = zip(*outcomes, strict=True)
            result[handover if rtc == "none" else f"rtc_{rtc}"] = {
                "successes": sum(successes),
                "handover": jumps(np.concatenate(between)),
                "inside": jumps(np.concatenate(inside)),
            }
    return result


def one_trial(
    rig: Any, policy: Policy, meta: CheckpointMeta, index: int, latency_steps: int, handover: str
) -> tuple[bool, np.ndarray, np.ndarray]:
    """Success, and the command's change at every hand-over and at every other step, the largest of all joints."""
    tasks, execute_steps = meta.config["rig"]["tasks"], meta.config["eval"]["execute_steps"]
    tape: Any = _Tape(rig, policy)
    trial = run_trial(
        tape,
        tape,
        tasks[index % len(tasks)],
        1_000_000 + index,  # never a seed of a demonstration
        executor=ExecutorConfig.of({"execute_steps": execute_steps, "handover": handover}),
        latency_steps=latency_steps,
    )
    change = np.abs(np.diff(tape.commands, axis=0)).max(axis=1)
    taken_over = np.isin(np.arange(1, len(tape.commands)), [step + latency_steps for step in tape.asked[1:]])
    return trial.success, change[taken_over], change[~taken_over]


def jumps(change: np.ndarray) -> dict[str, float]:
    """Of changes in rad: median, 95 % quantile and maximum."""
    median, high, most = np.quantile(change, [0.5, 0.95, 1.0])
    return {"median_rad": float(median), "p95_rad": float(high), "max_rad": float(most)}


if __name__ == "__main__":
    main()
