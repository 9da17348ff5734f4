"""Scores a checkpoint in paired trials: the same seeds give the same initial states for every policy.

    python experiments/eval.py --config experiments/configs/sim.py --checkpoint runs/sim [--trials 20]

Writes report.json (success rates with 95 % intervals) and report.html (videos, contact sheets, every trial). Trials
that an earlier, interrupted call finished are kept.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dexhil.commands import (
    ConfigError,
    Run,
    command_parser,
    load_config,
    progress,
    run_command,
    stop_requested,
    to_json,
)
from dexhil.config import Config
from dexhil.evaluation.intervals import score
from dexhil.evaluation.report import write_report
from dexhil.evaluation.rollout import Trial
from dexhil.evaluation.trials import Bench, outcomes, run_trials
from dexhil.policy import Policy
from dexhil.training.checkpoints import CheckpointMeta, find_step, load_meta
from experiments.rigs import make_rig


def main(argv: Sequence[str]) -> None:
    parser = command_parser("Scores a checkpoint in paired trials.", config="experiments/configs/sim.py")
    parser.add_argument("--checkpoint", type=Path, required=True, help="workdir of a training run")
    parser.add_argument("--step", type=int, help="step of the checkpoint (default: the newest)")
    parser.add_argument("--trials", type=int, help="per task (default: eval.trials of the config)")
    config, options = load_config(argv, parser, workdir=lambda options: options.checkpoint / "eval")
    meta = load_meta(options.checkpoint, options.step)
    workdir = options.workdir
    run = Run(workdir, "eval", config)
    trials = evaluate(config, options.checkpoint, workdir, step=options.step, count=options.trials)
    lineage = {"checkpoint": find_step(options.checkpoint, options.step), **meta.lineage}
    results = {**score(outcomes(trials)), "trials": [trial_facts(trial) for trial in trials]}
    report = run.report(results, lineage=lineage)
    print(f"report: {write_report(workdir, report, trials, media=workdir)}")
    for task, entry in results["tasks"].items():
        low, high = entry["interval"]
        print(f"{task}: {entry['successes']} of {entry['trials']} ({entry['rate']:.0%}, 95 % {low:.0%} to {high:.0%})")


def evaluate(
    config: Config, checkpoint: Path, folder: Path, *, step: int | None = None, count: int | None = None
) -> list[Trial]:
    """Runs the config's trials of every task with a checkpoint; pictures and videos go to `folder`.

    Raises ConfigError where robot or cameras of the checkpoint are not the rig's; KeyboardInterrupt after a clean stop.
    """
    path, rig = find_step(checkpoint, step), config.rig.to_dict()
    check_rig(load_meta(checkpoint, step), config)
    bench = Bench(
        make_rig=functools.partial(make_rig, rig),
        make_policy=functools.partial(Policy.load, checkpoint, int(path.name)),
        folder=folder,
        identity=json.dumps(
            [str(path), path.stat().st_mtime_ns, to_json(rig), config.eval.execute_steps, config.eval.max_seconds]
        ),
        execute_steps=config.eval.execute_steps,
        max_seconds=config.eval.max_seconds or None,
        videos_per_task=config.eval.videos_per_task,
    )
    per_task: int = config.eval.trials if count is None else count
    total, successes = per_task * len(rig["tasks"]), 0
    with progress(total, "evaluating") as bar, stop_requested("finishing the open trials") as stopping:

        def show(trial: Trial, done: int, _: int) -> None:
            nonlocal successes
            successes += trial.success
            bar.update(done, successes=successes)

        trials = run_trials(
            bench,
            rig["tasks"],
            trials=per_task,
            first_seed=config.eval.first_seed,
            workers=config.eval.workers,
            on_trial=show,
            stop=stopping,
        )
    if len(trials) < total:
        raise KeyboardInterrupt
    return trials


def check_rig(meta: CheckpointMeta, config: Config) -> None:
    """Raises ConfigError where a checkpoint cannot act on the config's rig."""
    if meta.robot != config.rig.robot:
        raise ConfigError(f"the checkpoint was trained on robot {meta.robot!r}, rig.robot is {config.rig.robot!r}")
    missing = sorted(set(meta.model.cameras) - set(config.rig.cameras))
    if missing:
        raise ConfigError(
            f"the checkpoint needs cameras {missing}, rig.cameras are {list(config.rig.cameras)}; add them"
        )


def trial_facts(trial: Trial) -> dict[str, Any]:
    """One row of the per-trial table."""
    return {field: value for field, value in vars(trial).items() if field != "frames"}


if __name__ == "__main__":
    run_command(main)
