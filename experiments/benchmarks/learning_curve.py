"""Success against the number of demonstrations: the embedded default trained on 30, 60, 100 and 200 per task.

    python experiments/collect.py --episodes 400 --out data/sim
    python experiments/benchmarks/learning_curve.py --out docs/learning_curve.json

Every size sees the same number of gradient steps, the same seed and the same paired trials. Writes the scores to
--out and the plot beside it. A call that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from dexhil.commands import code_version, write_json

SIZES = (30, 60, 100, 200)
ORDER = (30, 200, 60, 100)  # the ends first: they say most
ONE_CORE = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "OMP_NUM_THREADS": "1"}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; the plot gets the same name with .png")
    parser.add_argument("--config", default="experiments/configs/sim.py")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning_curve"))
    parser.add_argument("--trials", type=int, default=100, help="per task and size")
    parser.add_argument("--jobs", type=int, default=1, help="sizes trained at a time, each on one core if several")
    options, overrides = parser.parse_known_args(argv)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        reports = pool.map(lambda size: train_and_score(size, options, overrides), ORDER)
        curve = {str(size): facts(report) for size, report in zip(ORDER, reports, strict=True)}
    result = {
        "demonstrations_per_task": {size: curve[size] for size in map(str, SIZES)},
        "trials": options.trials,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "code_version": code_version(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, result)
    print(json.dumps(result, indent=2))
    print(f"plot: {plot(result, options.out.with_suffix('.png'))}")


def train_and_score(size: int, options: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    """The report of a training run on `size` demonstrations per task, none of them held out."""
    workdir = options.runs / str(size)
    command = [
        sys.executable,
        "experiments/train.py",
        f"--config={options.config}",
        *overrides,
        f"--config.data.episodes_per_task={size}",
        "--config.data.heldout_fraction=0.0",
        f"--config.eval.trials={options.trials}",
        f"--workdir={workdir}",
    ]
    if not (workdir / "report.json").is_file():
        workdir.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **(ONE_CORE if options.jobs > 1 else {})}
        with (workdir / "log.txt").open("a") as log:
            print(f"{size} per task: training and scoring, log in {workdir / 'log.txt'}", flush=True)
            subprocess.run(command, check=True, env=environment, stdout=log, stderr=subprocess.STDOUT)
    return json.loads((workdir / "report.json").read_text())


def facts(report: dict[str, Any]) -> dict[str, Any]:
    results = report["results"]
    return {
        **results["score"],
        "final_loss": results["final_loss"],
        "steps": results["steps"],
        "seconds": report["seconds"],
    }


def plot(result: dict[str, Any], path: Path) -> Path:
    """Success rate of each task with its 95 % interval, against demonstrations per task on a logarithmic axis."""
    sizes = [int(size) for size in result["demonstrations_per_task"]]
    entries = list(result["demonstrations_per_task"].values())
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for shift, task in zip((0.985, 1.015), entries[0]["tasks"], strict=True):
        scores = [entry["tasks"][task] for entry in entries]
        rates = [100 * score["rate"] for score in scores]
        below = [100 * (score["rate"] - score["interval"][0]) for score in scores]
        above = [100 * (score["interval"][1] - score["rate"]) for score in scores]
        axes.errorbar([size * shift for size in sizes], rates, yerr=[below, above], marker="o", capsize=3, label=task)
    axes.set(xscale="log", xlabel="demonstrations per task", ylabel="success, %", ylim=(0, 100))
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.minorticks_off()
    axes.set_title(f"{result['trials']} paired trials per point, 95 % Wilson intervals", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
