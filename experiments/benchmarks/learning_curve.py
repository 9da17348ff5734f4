"""Success against the number of demonstrations: the embedded default trained on 30, 60, 100 and 200 per task.

    python experiments/collect.py --episodes 400 --out data/sim
    python experiments/sweep.py --sweep experiments/sweeps/demonstrations.py --config.eval.trials=100
    python experiments/benchmarks/learning_curve.py --out docs/learning_curve.json

Every size sees the same number of gradient steps, the same seed and the same paired trials. Writes the scores to --out
and the plot beside it.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from experiments.benchmarks.result import machine, parser, write_result


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--sweep", type=Path, default=Path("runs/demonstrations"), help="workdir of the sweep")
    options = arguments.parse_args()
    report = json.loads((options.sweep / "report.json").read_text())
    sizes = {
        str(trial["overrides"]["data.episodes_per_task"]): {
            **trial["score"], "final_loss": trial["final_loss"], "seconds": trial["seconds"],
        }
        for trial in report["results"]["trials"]
    }  # fmt: skip
    result = {
        "demonstrations_per_task": sizes,
        "trials": report["config"]["eval"]["trials"],
        "machine": machine(),
        "code_version": report["code_version"],
    }
    write_result(options.out, result)
    plot(result, options.out.with_suffix(".png"))


def plot(result: dict[str, Any], path: Path) -> None:
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


if __name__ == "__main__":
    main()
