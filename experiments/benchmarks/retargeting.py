"""Every retargeting method on recordings of people: what goes wrong, in numbers, and how long a frame takes.

    python experiments/benchmarks/retargeting.py --out FILE.json --data HANDS [--hands allegro]

Ours is trained on the first four fifths of each of five stretches of a recording ("dexhil") and on another person's
recording alone ("dexhil_other"). All methods are scored on the frames that "dexhil" has not seen, with the same scale.
dex-retargeting's vector and dexpilot take part where they are installed; geort_style is `geort.py` beside this. Writes
{"clips": {clip: {hand: {method: {metric: value}}}}, "latency_ms": {method: {"median", "p99"}} of the last hand,
"trade_off": {metric: {weights: metrics}} of ours where goals pull apart, "training_s"}, and a plot beside it.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from dexhil.commands import code_version, to_json
from dexhil.progress import progress
from dexhil.retargeting import metrics, runtime, training
from dexhil.retargeting.hand import Hand
from dexhil.retargeting.kinematics import CanonicalHand
from dexhil.retargeting.optimised import KINDS, OptimisedRetargeter
from dexhil.retargeting.urdf import CARDS, load_urdf
from experiments.benchmarks import geort
from experiments.benchmarks.measure import milliseconds
from experiments.benchmarks.result import machine, parser, write_result
from experiments.retarget import held_out, load_clip, mapping

URDFS = {"allegro": "allegro_hand_right.urdf", "dexhand021": "dexhand021_right.urdf"}
EVERY = {"geort_alex": 1, "manus_000": 2, "mediapipe": 1}  # manus_000 at 57.6 Hz
OTHER_PERSON = {"geort_alex": "manus_000", "manus_000": "geort_alex", "mediapipe": "manus_000"}
HELD_OUT, LATENCY_FRAMES = 0.2, 600
TRADE_OFF_CLIP = "geort_alex"
TRADE_OFFS: dict[str, tuple[dict[str, float], ...]] = {  # metric -> other weights; the defaults are one more point
    "coverage": ({"cover": 3.0}, {"cover": 30.0}, {"cover": 30.0, "speed": 0.0}),
    "motion_preservation": ({"direction": 0.0}, {"direction": 0.008}, {"direction": 0.06}),
}
GOALS = {"coverage": 0.8, "motion_preservation": 0.95}
TIP_GOAL_MM = 15.0
METHODS = {  # method -> label, marker, colour
    "geort_style": ("GeoRT-style", "^", "tab:green"),
    "vector": ("vector", "s", "tab:red"),
    "dexpilot": ("DexPilot", "v", "tab:purple"),
}
Method = Callable[[np.ndarray], np.ndarray]
Scores = dict[str, float]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, required=True, help="folder with the recordings and urdf/")
    arguments.add_argument("--hands", nargs="+", default=list(URDFS), choices=list(URDFS))
    arguments.add_argument("--clips", nargs="+", default=list(EVERY), choices=list(EVERY))
    options = arguments.parse_args()
    clips = {
        name: load_clip(options.data / f"{name}_right_21kp.npy")[:: EVERY[name]]
        for name in dict.fromkeys([*options.clips, *(OTHER_PERSON[name] for name in options.clips), TRADE_OFF_CLIP])
    }
    scores: dict[str, dict[str, dict[str, Scores]]] = {name: {} for name in options.clips}
    seconds: dict[str, dict[str, float]] = {}
    latency_ms, trade_off = {}, {}
    for card in options.hands:
        urdf = options.data / "urdf" / URDFS[card]
        hand = load_urdf(urdf, CARDS[card])
        models, seconds[card] = train_all(hand, clips)
        for name in options.clips:
            scores[name][card] = score_all(methods_for(name, clips[name], models, urdf, card), clips[name], hand)
            print(f"{name}, {card}: {scores[name][card]}", flush=True)
        latency_ms = latencies(clips[TRADE_OFF_CLIP], models[TRADE_OFF_CLIP], urdf, card)
        trade_off = trade_off or trade_offs(hand, clips[TRADE_OFF_CLIP])
    result = {
        "benchmark": "retargeting",
        "clips": scores,
        "latency_ms": latency_ms,
        "latency_hand": options.hands[-1],
        "trade_off": trade_off,
        "trade_off_of": {"hand": options.hands[0], "clip": TRADE_OFF_CLIP},
        "training_s": seconds,
        "machine": machine(),
        "code_version": code_version(),
    }
    write_result(options.out, to_json(result))
    if TRADE_OFF_CLIP in options.clips:
        plot(result, options.out.with_suffix(".png"))


def train_all(hand: Hand, clips: Mapping[str, np.ndarray]) -> tuple[dict[str, runtime.Model], dict[str, float]]:
    """A model per recording, and how long each took, s."""
    models, seconds = {}, {}
    for name, clip in clips.items():
        began = time.monotonic()
        models[name] = train_with(hand, clip, {})
        seconds[name] = time.monotonic() - began
    return models, seconds


def train_with(hand: Hand, clip: np.ndarray, weights: Mapping[str, float]) -> runtime.Model:
    """Trained on the frames of `clip` [T, 21, 3] m that are not held out, with other `weights` than the defaults."""
    config = dataclasses.replace(training.TrainingConfig(), **weights)
    learnt = clip[~held_out(len(clip), HELD_OUT)]
    with progress(sum(config.steps), f"{hand.name}: {named(weights) or 'training'}") as bar:
        params = training.train(hand, [learnt], config, watch=lambda step, _: bar.update(step))
    return runtime.Model(hand, params, {})


def named(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in weights.items())


def methods_for(
    name: str, clip: np.ndarray, models: Mapping[str, runtime.Model], urdf: Path, card: str
) -> dict[str, Method]:
    """Ours, GeoRT's losses, and other methods that are installed; says which are not."""
    hand = models[name].hand
    scale = training.scale_of(clip, CanonicalHand(hand))
    learnt = clip[~held_out(len(clip), HELD_OUT)]
    followed = runtime.Model(hand, geort.train(hand, learnt, scale), {})
    return {
        "dexhil": mapping(models[name], clip),
        "dexhil_other": mapping(models[OTHER_PERSON[name]], clip),
        "geort_style": mapping(followed, clip),
        **installed(urdf, card, scale),
    }


def installed(urdf: Path, card: str, scale: float) -> dict[str, Method]:
    found: dict[str, Method] = {}
    for kind in KINDS:
        try:
            found[kind] = OptimisedRetargeter(urdf, CARDS[card], kind, scale=scale).clip
        except ImportError as error:
            print(f"{kind} does not take part: {error}")
    return found


def score_all(methods: Mapping[str, Method], clip: np.ndarray, hand: Hand) -> dict[str, Scores]:
    robot, held = CanonicalHand(hand), held_out(len(clip), HELD_OUT)
    scale = training.scale_of(clip, robot)
    return {way: metrics.score(method, clip, robot, scale, held=held) for way, method in methods.items()}


def trade_offs(hand: Hand, clip: np.ndarray) -> dict[str, dict[str, Scores]]:
    """Ours with other weights where goals pull apart: following tips, moving the same way, reaching everywhere."""
    return {
        metric: {
            named(weights): score_all({"dexhil": mapping(train_with(hand, clip, weights), clip)}, clip, hand)["dexhil"]
            for weights in choices
        }
        for metric, choices in TRADE_OFFS.items()
    }


def latencies(clip: np.ndarray, model: runtime.Model, urdf: Path, card: str) -> dict[str, Scores]:
    """Per method: median and 99th percentile, ms, of one frame [1, 21, 3] at a time, in this process."""
    retargeter = runtime.Retargeter(model, size_m=0.18)
    calls: dict[str, Method] = {"dexhil": lambda points: retargeter(points[0])}
    calls |= installed(urdf, card, training.scale_of(clip, CanonicalHand(model.hand)))
    return {way: latency(call, clip[:LATENCY_FRAMES]) for way, call in calls.items()}


def latency(method: Method, frames: np.ndarray) -> Scores:
    following = iter(frames)
    wall, _ = milliseconds(lambda: method(next(following)[None]), len(frames))
    return {"median": float(np.median(wall)), "p99": float(np.percentile(wall, 99))}


def plot(result: Mapping[str, Any], path: Path) -> None:
    """What a better tip error costs, ours by weights and every method: coverage and motion preservation against it."""
    of = result["trade_off_of"]
    methods = result["clips"][of["clip"]][of["hand"]]
    figure, both = plt.subplots(1, 2, figsize=(10.0, 4.4), layout="constrained")
    for axes, bottom, (metric, trade_off) in zip(both, (0.3, 0.6), result["trade_off"].items(), strict=True):
        curve = [*trade_off.items(), ("default", methods["dexhil"])]
        curve.sort(key=lambda point: point[1]["tip_error_mm"])
        at = [(score["tip_error_mm"], score[metric]) for _, score in curve]
        axes.plot(*zip(*at, strict=True), "-o", color="tab:blue", label="DexHiL, by weights", zorder=3)
        for (label, _), point in zip(curve, at, strict=True):
            axes.annotate(label, point, (6, -3), textcoords="offset points", fontsize=7.5, color="tab:blue", va="top")
        for name, (label, marker, colour) in METHODS.items():
            if name in methods:
                where = methods[name]["tip_error_mm"], methods[name][metric]
                axes.plot(*where, marker, color=colour, markersize=8, label=label, zorder=2)
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
