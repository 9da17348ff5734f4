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
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dexhil.commands import write_json
from dexhil.control.executor import ExecutorConfig
from dexhil.evaluation.rollout import run_trial
from dexhil.models.config import CONFIGS, VLAConfig, get_model_config
from dexhil.models.inputs import model_inputs
from dexhil.models.tokenizer import Tokenizer
from dexhil.models.vla import init_params
from dexhil.policy import Policy, RtcChoice
from dexhil.schema import ARM_DOF, ActionChunk, Observation
from dexhil.training.checkpoints import CheckpointMeta, load_meta
from dexhil.training.step import parameter_group
from experiments.benchmarks.train_step import CAMERA_SHAPE, machine, make_meta, milliseconds

PEAKS = {  # dense bfloat16 FLOP/s and memory bytes/s of the data sheets
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.04e12),
    "4090": (165e12, 1.01e12),
}
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
    model = model_config(options.model, options.dtype, options.views)
    result = {
        "benchmark": "inference",
        "model": {"name": options.model, "dtype": options.dtype, "views": options.views, "steps": options.steps},
        "machine": machine(),
        "latency": time_latency(make_meta(model), options.steps, options.repeats),
    }
    if options.checkpoint:
        result["handover"] = measure_handover(options.checkpoint, options.trials, options.latency_steps)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, result)
    print(json.dumps(result, indent=2))


def model_config(name: str, dtype: Any, views: int) -> VLAConfig:
    """The named size with `views` cameras, able to take a prefix of up to half a chunk."""
    model = get_model_config(name)
    cameras = tuple(f"camera_{index}" for index in range(views))
    most = model.chunk // 2 if model.variant == "pi05" else 0
    return dataclasses.replace(model, dtype=dtype, cameras=cameras, rtc_max_delay=most)


@functools.partial(jax.jit, static_argnums=0)
def random_params(config: VLAConfig, key: jax.Array) -> Any:
    """Small random weights in the config's dtype, leaf by leaf: float32 ones of the real size would need twice that."""
    shapes = jax.eval_shape(lambda: init_params(config, key))
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        0.02 * jax.random.normal(key, leaf.shape, jnp.dtype(config.dtype))
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


def random_observation(meta: CheckpointMeta) -> Observation:
    rng = np.random.default_rng(0)
    return Observation(
        images={camera: rng.integers(0, 256, CAMERA_SHAPE, np.uint8) for camera in meta.model.cameras},
        q_arm=np.zeros(ARM_DOF, np.float32),
        q_hand=np.zeros(meta.model.state_dim - ARM_DOF, np.float32),
        pose_base_ee=np.array([0.5, 0, 0.3, 1, 0, 0, 0], np.float32),
        timestamp=0.0,
        language_instruction="Grab that yellow plushie",
    )


def time_latency(meta: CheckpointMeta, steps: int, repeats: int) -> dict[str, Any]:
    """method -> {"median_ms", "p99_ms", "cpu_ms", "start_s"} and, where the device is known, shares of its peaks.

    "host" is the part that prepares the inputs; start_s: of compiling and warming up.
    """
    model, observation = meta.model, random_observation(meta)
    params = random_params(model, jax.random.key(0))
    prefix = np.zeros((model.chunk // 2, model.action_dim), np.float32)
    methods: list[tuple[str, RtcChoice]] = [("plain", "none"), ("guided", "guided")]
    if model.rtc_max_delay:
        methods.append(("trained", "trained"))
    latency: dict[str, Any] = {"host": time_host(meta, observation, repeats)}
    for name, rtc in methods:
        began = time.perf_counter()
        policy = Policy(params, meta, num_steps=steps, rtc=rtc)
        start_s = time.perf_counter() - began
        infer = functools.partial(
            policy.infer, observation, **({} if name == "plain" else {"prefix": prefix, "delay": 2})
        )
        wall, cpu_ms = milliseconds(infer, repeats)
        facts = shares(work(model, params, steps, name == "guided"), float(np.median(wall)))
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


def summary(wall: np.ndarray) -> dict[str, float]:
    return {"median_ms": float(np.median(wall)), "p99_ms": float(np.quantile(wall, 0.99))}


def work(model: VLAConfig, params: Any, steps: int, guided: bool) -> tuple[float, float]:
    """FLOPs, and bytes of weights and keys and values that must be read, of one inference at batch 1.

    Matrix products only, two per weight and token. Guidance goes through the expert forwards and backwards.
    """
    sizes: dict[str, int] = dict.fromkeys(("vision", "language", "expert"), 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if "input_embedding" not in jax.tree_util.keystr(path):  # a look-up
            sizes[parameter_group(path)] += leaf.size
    images, shared, itemsize = len(model.cameras) * model.image_tokens, model.attention, jnp.dtype(model.dtype).itemsize
    prefix, passes = images + model.max_tokens, steps * (2 if guided else 1)
    suffix = model.chunk + (model.state_input == "token")
    attention = 4 * shared.depth * shared.num_heads * shared.head_dim  # FLOPs per pair of tokens
    flops = 2 * sizes["vision"] * images + 4 * model.vision.depth * model.vision.width * images * model.image_tokens
    flops += 2 * sizes["language"] * prefix + attention * prefix**2
    flops += passes * (2 * sizes["expert"] * suffix + attention * suffix * (prefix + suffix))
    kv = 2 * shared.depth * prefix * shared.num_kv_heads * shared.head_dim
    moved = itemsize * (sizes["vision"] + sizes["language"] + passes * (sizes["expert"] + kv))
    return float(flops), float(moved)


def shares(amount: tuple[float, float], median_ms: float) -> dict[str, float]:
    """Work done, and its share of what the device can do at most, where that is known."""
    flops, moved = amount
    facts = {"gflop": flops / 1e9, "gbyte": moved / 1e9}
    for name, (peak_flops, peak_bytes) in PEAKS.items():
        if name in jax.devices()[0].device_kind:
            bound = 1e3 * max(flops / peak_flops, moved / peak_bytes)
            seconds = median_ms / 1e3
            facts |= {"mfu": flops / seconds / peak_flops, "bandwidth": moved / seconds / peak_bytes, "bound_ms": bound}
    return facts


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
    with contextlib.closing(make_rig(meta.config["rig"])) as rig:
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
        executor=ExecutorConfig(execute_steps, handover),
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
