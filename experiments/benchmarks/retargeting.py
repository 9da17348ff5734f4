"""Every retargeting method on recordings of people: what goes wrong, in numbers, and how long a frame takes.

    python experiments/benchmarks/retargeting.py --out FILE.json [--data ../shared/data/hands] [--hands allegro]

Ours is trained on the first 80 % of a recording and, as "dexhil_other", on another person's; all methods are scored on
the last 20 %, with the same scale. Peers take part where they are installed (dex-retargeting). Writes {"clips": {clip:
{hand: {method: {metric: value}}}}, "latency_ms": {method: {"median", "p99"}}, "training_s"} and a page beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dexhil.commands import code_version, write_json
from dexhil.progress import progress
from dexhil.retargeting import metrics, runtime, training
from dexhil.retargeting.kinematics import CanonicalHand
from dexhil.retargeting.optimised import KINDS, OptimisedRetargeter
from dexhil.retargeting.urdf import CARDS, load_urdf
from experiments.retarget import first_held_out, load_clip, mapping
from experiments.retarget_report import write_comparison

URDFS = {"allegro": "allegro_hand_right.urdf", "dexhand021": "dexhand021_right.urdf"}
EVERY = {"geort_alex": 1, "manus_000": 2, "mediapipe": 1}  # manus_000 at 57.6 Hz
OTHER = {"geort_alex": "manus_000", "manus_000": "geort_alex", "mediapipe": "manus_000"}
HELD_OUT, LATENCY_FRAMES = 0.2, 600
Method = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares retargeting methods on recordings.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/hands"))
    parser.add_argument("--hands", nargs="+", default=list(URDFS), choices=list(URDFS))
    parser.add_argument("--clips", nargs="+", default=list(EVERY), choices=list(EVERY))
    options = parser.parse_args()
    clips = {
        name: load_clip(options.data / f"{name}_right_21kp.npy")[:: EVERY[name]]
        for name in dict.fromkeys([*options.clips, "manus_000", "geort_alex"])
    }
    scores: dict[str, dict[str, dict[str, dict[str, float]]]] = {name: {} for name in options.clips}
    latencies: dict[str, dict[str, float]] = {}
    seconds: dict[str, dict[str, float]] = {}
    shown: dict[str, dict[str, dict[str, Method]]] = {name: {} for name in options.clips}
    for hand in options.hands:
        urdf = options.data / "urdf" / URDFS[hand]
        models, seconds[hand] = train_all(hand, urdf, clips)
        for name in options.clips:
            held_out = clips[name][first_held_out(clips[name], HELD_OUT) :]
            robot = CanonicalHand(models[name].hand)
            scale = training.scale_of(held_out, robot)
            methods = {
                "dexhil": mapping(models[name], held_out),
                "dexhil_other": mapping(models[OTHER[name]], held_out),
                **peers(hand, urdf, scale),
            }
            shown[name][hand] = methods
            scores[name][hand] = {way: metrics.score(f, held_out, robot, scale) for way, f in methods.items()}
            print(f"{name}, {hand}: " + json.dumps(scores[name][hand], indent=1))
            if not latencies:
                retargeter = runtime.Retargeter(models[name], size_m=0.18)
                frames = held_out[:LATENCY_FRAMES]
                latencies["dexhil"] = latency(lambda points, call=retargeter: call(points[0]), frames)
                latencies |= {way: latency(f, frames) for way, f in peers(hand, urdf, scale).items()}
    result = {
        "benchmark": "retargeting",
        "clips": scores,
        "latency_ms": latencies,
        "training_s": seconds,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "code_version": code_version(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, result)
    held = {name: clips[name][first_held_out(clips[name], HELD_OUT) :] for name in options.clips}
    hands = {hand: load_urdf(options.data / "urdf" / URDFS[hand], CARDS[hand]) for hand in options.hands}
    page = write_comparison(options.out.with_suffix(".html"), result, hands, held, shown)
    print(f"latency, ms: {latencies}\npage: {page}")


def train_all(hand: str, urdf: Path, clips: dict[str, np.ndarray]) -> tuple[dict[str, runtime.Model], dict[str, float]]:
    """A model per recording, and how long each took, s."""
    robot, config = load_urdf(urdf, CARDS[hand]), training.TrainingConfig()
    models, seconds = {}, {}
    for name, clip in clips.items():
        began = time.monotonic()
        with progress(sum(config.steps), f"{hand}: training on {name}") as bar:
            params = training.train(
                robot, [clip[: first_held_out(clip, HELD_OUT)]], config, watch=lambda step, _, bar=bar: bar.update(step)
            )
        models[name], seconds[name] = runtime.Model(robot, params, {}), time.monotonic() - began
    return models, seconds


def peers(hand: str, urdf: Path, scale: float) -> dict[str, Method]:
    """Those that are installed; says which are not."""
    found: dict[str, Method] = {}
    for kind in KINDS:
        try:
            found[kind] = OptimisedRetargeter(urdf, CARDS[hand], kind, scale=scale).clip
        except ImportError as error:
            print(f"{kind} does not take part: {error}")
    return found


def latency(method: Method, frames: np.ndarray) -> dict[str, float]:
    """Median and 99th percentile, ms, of one frame [1, 21, 3] at a time."""
    times = []
    for frame in frames:
        began = time.perf_counter()
        method(frame[None])
        times.append(1e3 * (time.perf_counter() - began))
    return {"median": float(np.median(times)), "p99": float(np.percentile(times, 99))}


if __name__ == "__main__":
    main()
