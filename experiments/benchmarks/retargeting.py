"""Every retargeting method on recordings of people: what goes wrong, in numbers, and how long a frame takes.

    python experiments/benchmarks/retargeting.py --out FILE.json --data HANDS [--hands allegro]

Ours is trained on the first four fifths of each of five stretches of a recording ("dexhil") and on another person's
recording alone ("dexhil_other"). All methods are scored on the frames that "dexhil" has not seen, with the same scale.
Peers take part where they are installed: dex-retargeting's vector and dexpilot; geort_style is `geort.py` beside this.
Writes {"clips": {clip: {hand: {method: {metric: value}}}}, "latency_ms": {method: {"median", "p99"}},
"latency_beside_policy_ms": the same while a policy runs at 20 Hz in another process, "reachable_tip_error_mm": {clip:
{hand: of the best posture of every held-out frame, `reach.py`}}, "trade_off": {metric: {weights: metrics}} of ours
where goals pull apart, "ablations": {weights: {clip: {method: metrics}}}, "training_s"}, a page and a plot beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from dexhil.commands import code_version, to_json, write_json
from dexhil.progress import progress
from dexhil.reports.retargeting import write_comparison
from dexhil.retargeting import metrics, network, runtime, training
from dexhil.retargeting.hand import Hand
from dexhil.retargeting.kinematics import CanonicalHand
from dexhil.retargeting.optimised import KINDS, OptimisedRetargeter
from dexhil.retargeting.urdf import CARDS, load_urdf
from experiments.benchmarks import geort
from experiments.benchmarks.reach import reachable_tip_error
from experiments.benchmarks.train_step import make_meta, make_policy
from experiments.retarget import held_out, load_clip, mapping

URDFS = {"allegro": "allegro_hand_right.urdf", "dexhand021": "dexhand021_right.urdf"}
EVERY = {"geort_alex": 1, "manus_000": 2, "mediapipe": 1}  # manus_000 at 57.6 Hz
OTHER = {"geort_alex": "manus_000", "manus_000": "geort_alex", "mediapipe": "manus_000"}
HELD_OUT, LATENCY_FRAMES = 0.2, 600
POLICY_HZ = 20.0
TRADE_OFF_CLIP = "geort_alex"
TRADE_OFFS: dict[str, tuple[dict[str, float], ...]] = {  # metric -> other weights; the defaults are one more point
    "coverage": ({"cover": 3.0}, {"cover": 30.0}, {"cover": 30.0, "speed": 0.0}),
    "motion_preservation": ({"direction": 0.0}, {"direction": 0.008}, {"direction": 0.06}),
}
GLOVES = ("geort_alex", "manus_000")
ABLATIONS: tuple[dict[str, float], ...] = ({"together_m": 0.0}, {"stray": 0.0}, {"speed": 400.0}, {"bend": 0.5})
GOALS = {"coverage": 0.8, "motion_preservation": 0.95}
TIP_GOAL_MM = 15.0
PEERS = {  # method -> label, marker, colour
    "geort_style": ("GeoRT-style", "^", "tab:green"),
    "vector": ("vector", "s", "tab:red"),
    "dexpilot": ("DexPilot", "v", "tab:purple"),
}
Method = Callable[[np.ndarray], np.ndarray]
Scores = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares retargeting methods on recordings.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with the recordings and urdf/")
    parser.add_argument("--hands", nargs="+", default=list(URDFS), choices=list(URDFS))
    parser.add_argument("--clips", nargs="+", default=list(EVERY), choices=list(EVERY))
    options = parser.parse_args()
    urdfs = {hand: options.data / "urdf" / URDFS[hand] for hand in options.hands}
    hands = {hand: load_urdf(path, CARDS[hand]) for hand, path in urdfs.items()}
    clips = {
        name: load_clip(options.data / f"{name}_right_21kp.npy")[:: EVERY[name]]
        for name in dict.fromkeys([*options.clips, *GLOVES])
    }
    scores: dict[str, dict[str, dict[str, Scores]]] = {name: {} for name in options.clips}
    shown: dict[str, dict[str, dict[str, Method]]] = {name: {} for name in options.clips}
    seconds: dict[str, dict[str, float]] = {}
    models: dict[str, runtime.Model] = {}
    for hand, urdf in urdfs.items():
        models, seconds[hand] = train_all(hands[hand], clips)
        for name in options.clips:
            methods = methods_for(name, clips[name], models, urdf, CARDS[hand])
            scores[name][hand] = score_all(methods, clips[name], hands[hand])
            shown[name][hand] = methods
            print(f"{name}, {hand}: " + json.dumps(scores[name][hand], indent=1), flush=True)
    last = options.hands[-1]
    alone = latencies(clips["manus_000"], models["manus_000"], urdfs[last], last)
    with running_policy():
        beside = latencies(clips["manus_000"], models["manus_000"], urdfs[last], last)
    result = {
        "benchmark": "retargeting",
        "clips": scores,
        "latency_ms": alone,
        "latency_beside_policy_ms": beside,
        "latency_hand": last,
        "reachable_tip_error_mm": {
            name: {hand: reachable(clips[name], hands[hand]) for hand in options.hands} for name in options.clips
        },
        "trade_off": trade_offs(hands[options.hands[0]], clips[TRADE_OFF_CLIP]),
        "trade_off_of": {"hand": options.hands[0], "clip": TRADE_OFF_CLIP},
        "ablations": ablations(hands[options.hands[0]], clips),
        "training_s": seconds,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}",
        "code_version": code_version(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, to_json(result))
    plot(result, options.out.with_suffix(".png"))
    unseen = {name: clips[name][held_out(len(clips[name]), HELD_OUT)] for name in options.clips}
    page = write_comparison(options.out.with_suffix(".html"), result, hands, unseen, shown)
    print(f"latency, ms: {alone}\nbeside the policy: {beside}\npage: {page}")


def train_one(hand: Hand, clip: np.ndarray, config: training.TrainingConfig, label: str) -> network.Params:
    """Trained on the frames of `clip` [T, 21, 3] m that are not held out."""
    learnt = clip[~held_out(len(clip), HELD_OUT)]
    with progress(sum(config.steps), label) as bar:
        return training.train(hand, [learnt], config, watch=lambda step, _: bar.update(step))


def train_all(hand: Hand, clips: Mapping[str, np.ndarray]) -> tuple[dict[str, runtime.Model], dict[str, float]]:
    """A model per recording, and how long each took, s."""
    models, seconds = {}, {}
    for name, clip in clips.items():
        began = time.monotonic()
        params = train_one(hand, clip, training.TrainingConfig(), f"{hand.name}: training on {name}")
        models[name], seconds[name] = runtime.Model(hand, params, {}), time.monotonic() - began
    return models, seconds


def methods_for(
    name: str, clip: np.ndarray, models: Mapping[str, runtime.Model], urdf: Path, card: Any
) -> dict[str, Method]:
    """Ours, GeoRT's losses, and the peers that are installed; says which are not."""
    hand = models[name].hand
    scale = training.scale_of(clip, CanonicalHand(hand))
    learnt = clip[~held_out(len(clip), HELD_OUT)]
    followed = runtime.Model(hand, geort.train(hand, learnt, scale), {})
    return {
        "dexhil": mapping(models[name], clip),
        "dexhil_other": mapping(models[OTHER[name]], clip),
        "geort_style": mapping(followed, clip),
        **peers(urdf, card, scale),
    }


def peers(urdf: Path, card: Any, scale: float) -> dict[str, Method]:
    found: dict[str, Method] = {}
    for kind in KINDS:
        try:
            found[kind] = OptimisedRetargeter(urdf, card, kind, scale=scale).clip
        except ImportError as error:
            print(f"{kind} does not take part: {error}")
    return found


def score_all(methods: Mapping[str, Method], clip: np.ndarray, hand: Hand) -> dict[str, Scores]:
    robot, held = CanonicalHand(hand), held_out(len(clip), HELD_OUT)
    scale = training.scale_of(clip, robot)
    return {way: metrics.score(method, clip, robot, scale, held=held) for way, method in methods.items()}


def reachable(clip: np.ndarray, hand: Hand) -> Scores:
    robot = CanonicalHand(hand)
    return reachable_tip_error(clip[held_out(len(clip), HELD_OUT)], robot, training.scale_of(clip, robot))


def trade_offs(hand: Hand, clip: np.ndarray) -> dict[str, dict[str, Scores]]:
    """Ours with other weights where goals pull apart: following tips, moving the same way, reaching everywhere."""
    return {
        metric: {
            named(weights): score_all({"dexhil": mapping(train_with(hand, clip, weights), clip)}, clip, hand)["dexhil"]
            for weights in choices
        }
        for metric, choices in TRADE_OFFS.items()
    }


def ablations(hand: Hand, clips: Mapping[str, np.ndarray]) -> dict[str, dict[str, dict[str, Scores]]]:
    """Ours without an option each, on both gloves: weights -> clip scored -> method -> metrics."""
    found: dict[str, dict[str, dict[str, Scores]]] = {}
    for weights in ABLATIONS:
        models = {name: train_with(hand, clips[name], weights) for name in GLOVES}
        found[named(weights)] = {
            name: score_all(
                {"dexhil": mapping(models[name], clip), "dexhil_other": mapping(models[OTHER[name]], clip)}, clip, hand
            )
            for name, clip in ((name, clips[name]) for name in GLOVES)
        }
    return found


def train_with(hand: Hand, clip: np.ndarray, weights: Mapping[str, float]) -> runtime.Model:
    config = dataclasses.replace(training.TrainingConfig(), **weights)
    return runtime.Model(hand, train_one(hand, clip, config, f"{hand.name}: {named(weights)}"), {})


def named(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in weights.items())


def latencies(clip: np.ndarray, model: runtime.Model, urdf: Path, card: str) -> dict[str, Scores]:
    """Per method, ms of one frame at a time, in this process."""
    frames, retargeter = clip[:LATENCY_FRAMES], runtime.Retargeter(model, size_m=0.18)
    calls: dict[str, Method] = {"dexhil": lambda points: retargeter(points[0])}
    calls |= peers(urdf, CARDS[card], training.scale_of(clip, CanonicalHand(model.hand)))
    return {way: latency(call, frames) for way, call in calls.items()}


def latency(method: Method, frames: np.ndarray) -> Scores:
    """Median and 99th percentile, ms, of one frame [1, 21, 3] at a time."""
    times = []
    for frame in frames:
        began = time.perf_counter()
        method(frame[None])
        times.append(1e3 * (time.perf_counter() - began))
    return {"median": float(np.median(times)), "p99": float(np.percentile(times, 99))}


class running_policy:
    """While it lasts, the embedded policy infers at POLICY_HZ in another process."""

    def __enter__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop, ready = context.Event(), context.Event()
        self._process = context.Process(target=_infer, args=(ready, self._stop))
        self._process.start()
        if not ready.wait(300):
            raise RuntimeError("the policy beside did not start within 300 s")

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._process.join()


def _infer(ready: Any, stop: Any) -> None:
    from dexhil.models.config import get_model_config

    policy, observation = make_policy(make_meta(get_model_config("embedded")))
    policy.infer(observation)
    ready.set()
    while not stop.is_set():
        began = time.monotonic()
        policy.infer(observation)
        stop.wait(max(0.0, 1.0 / POLICY_HZ - (time.monotonic() - began)))


def plot(result: Mapping[str, Any], path: Path) -> None:
    """What a better tip error costs, ours by weights and every method: coverage and motion preservation against it."""
    of = result["trade_off_of"]
    methods = result["clips"][of["clip"]][of["hand"]]
    bound = result["reachable_tip_error_mm"][of["clip"]][of["hand"]]["pinching"]
    figure, both = plt.subplots(1, 2, figsize=(10.0, 4.4), layout="constrained")
    for axes, bottom, (metric, trade_off) in zip(both, (0.3, 0.6), result["trade_off"].items(), strict=True):
        curve = [*trade_off.items(), ("default", methods["dexhil"])]
        curve.sort(key=lambda point: point[1]["tip_error_mm"])
        at = [(score["tip_error_mm"], score[metric]) for _, score in curve]
        axes.plot(*zip(*at, strict=True), "-o", color="tab:blue", label="DexHiL, by weights", zorder=3)
        for (label, _), point in zip(curve, at, strict=True):
            axes.annotate(label, point, (6, -3), textcoords="offset points", fontsize=7.5, color="tab:blue", va="top")
        for name, (label, marker, colour) in PEERS.items():
            if name in methods:
                where = methods[name]["tip_error_mm"], methods[name][metric]
                axes.plot(*where, marker, color=colour, markersize=8, label=label, zorder=2)
        axes.axvline(bound, color="0.4", linestyle=":", label="no posture that pinches is nearer")
        goal = Rectangle((0.0, GOALS[metric]), TIP_GOAL_MM, 1.0 - GOALS[metric], color="tab:green", alpha=0.18, lw=0)
        axes.add_patch(goal).set_label("both goals")
        axes.set(xlabel="tip error, mm (better to the left)", xlim=(0, 50), ylim=(bottom, 1.0))
        axes.set_title(f"{metric.replace('_', ' ')} (better above)", fontsize=10)
        axes.grid(alpha=0.3)
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    figure.suptitle(f"{of['hand'].capitalize()} hand, recording {of['clip']}, held-out frames", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
