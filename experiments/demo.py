"""The main job on the embedded simulator: demonstrations, data set, training, score. What `make demo` runs.

    python experiments/demo.py [--preset default] [--workdir runs/demo]

Each stage is a command of its own, printed as a user would type it. Interrupt it whenever you like: calling it again
goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dexhil.progress import format_seconds

CONFIG = "experiments/configs/sim.py"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="default", help="preset of the config")
    parser.add_argument("--episodes", type=int, default=400, help="demonstrations, over both tasks")
    parser.add_argument("--workdir", type=Path, default=Path("runs/demo"))
    options = parser.parse_args(argv)
    began, data = time.monotonic(), options.workdir / "data"
    shared = ["--config", CONFIG, f"--config.preset={options.preset}"]
    stage("1/2  demonstrations by the scripted operator, built into an RLDS data set")
    run("experiments/collect.py", *shared, "--episodes", str(options.episodes), "--out", str(data))
    stage("2/2  training, then paired trials")
    paths = [f"--config.data.paths={[str(data / 'rlds')]}", f"--config.data.cache_dir={data / 'cache'}"]
    run("experiments/train.py", *shared, *paths, "--workdir", str(options.workdir))
    show(options.workdir, time.monotonic() - began)


def stage(title: str) -> None:
    print(f"\n== {title}", flush=True)


def run(*command: str) -> None:
    """Runs a command of the project; ends with its exit status where it fails."""
    print(f"$ python {shlex.join(command)}", flush=True)
    status = subprocess.run([sys.executable, *command]).returncode
    if status:
        sys.exit(status)


def show(workdir: Path, seconds: float) -> None:
    score = json.loads((workdir / "report.json").read_text())["results"]["score"]
    print(f"\nDone in {format_seconds(seconds)}.")
    for task, entry in score["tasks"].items():
        low, high = entry["interval"]
        print(f"  {task}: {entry['successes']} of {entry['trials']} trials succeed (95 %: {low:.0%} to {high:.0%})")
    print(f"Open {workdir / 'report.html'} in a browser: videos, success rates, loss curves.")


if __name__ == "__main__":
    main(sys.argv[1:])
